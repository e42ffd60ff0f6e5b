// The compiled LSTM, step by step over time, and the gradients of all steps.
#include "lstm.h"

#include "steps_exports.h"

EXPORT(Lstm, , float, _f32)
EXPORT(Lstm, , double, _f64)
