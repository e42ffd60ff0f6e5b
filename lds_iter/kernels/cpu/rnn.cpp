// The compiled plain recurrent network: one step of all rows, its derivatives, its adjoint, whole iterations.
#include "rnn.h"

#include "cell_exports.h"

EXPORT(Tanh, _tanh, float, _f32)
EXPORT(Tanh, _tanh, double, _f64)
EXPORT(Relu, _relu, float, _f32)
EXPORT(Relu, _relu, double, _f64)
