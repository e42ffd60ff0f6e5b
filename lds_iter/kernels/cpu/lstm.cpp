// The compiled LSTM: one step of all rows, its derivatives, its adjoint, whole iterations.
#include "lstm.h"

#include "cell_exports.h"

EXPORT(Lstm, , float, _f32)
EXPORT(Lstm, , double, _f64)
