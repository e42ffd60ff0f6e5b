// The compiled GRU, step by step over time, and the gradients of all steps.
#include "gru.h"

#include "steps_exports.h"

EXPORT(Gru, , float, _f32)
EXPORT(Gru, , double, _f64)
