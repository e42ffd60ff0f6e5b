// The compiled plain recurrent network, step by step over time, and the gradients of all steps.
#include "rnn.h"

#include "steps_exports.h"

EXPORT(Tanh, _tanh, float, _f32)
EXPORT(Tanh, _tanh, double, _f64)
EXPORT(Relu, _relu, float, _f32)
EXPORT(Relu, _relu, double, _f64)
