// The compiled GRU: one step of all rows, its derivatives, its adjoint, whole iterations.
#include "gru.h"

#include "cell_exports.h"

EXPORT(Gru, , float, _f32)
EXPORT(Gru, , double, _f64)
