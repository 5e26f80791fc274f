// The recursion of a chain of Linear and activations, by ATen in autograd's order.
//
//   forward    z = h W^T + b,  a = f(z)                                       up through the layers
//   backward   dC/dW = delta^T h,  dC/db = sum_n delta,  dC/dh = delta W,
//              dC/dz = delta f'(z)                                            and down
//
// The C++ twin of manualbp/maths/backprop.py with layers/linear.py and layers/elementwise.py.
#pragma once
#include <ATen/core/Tensor.h>

#include <vector>

#include "aten_activations.h"

namespace manualbp::exact {

using Tensors = std::vector<at::Tensor>;
using Wants = std::vector<bool>;

struct Layer {
  bool linear = false;  // else an activation
  // Of a Linear: how autograd spells its products where h or W lies in memory column by column:
  // dC/dh = (W^T delta^T)^T, dC/dW = (h^T delta)^T. The same numbers, other last bits.
  bool h_column_major = false, w_column_major = false;
  // Of an activation. in_place: the user chose inplace=True.
  Activation f;
  bool in_place = false;
  int64_t over_from = 0;  // elements from which writing over delta saves more than it costs to look

  size_t keeps() const { return linear ? 2 : 1; }
};
using Layers = std::vector<Layer>;

// Which gradients of a layer are wanted.
struct Needs {
  bool h = false, weight = false, bias = false;
  bool any() const { return h || weight || bias; }
};

// ``wants`` is of the parameters in the order of backprop.flat, last layer first and bias before
// weight, and of x.
std::vector<Needs> needs_of(const Layers& layers, const Wants& wants);

// How many parameters the chain has.
size_t parameters_of(const Layers& layers);

// What forward keeps. A tensor that backward will not read is undefined.
struct Tape {
  Tensors kept;
  std::vector<int> made_by;  // the layer whose output it is; -1 for x and for parameters
};

// o. ``parameters`` in the order of backprop.flat, undefined where there is none.
at::Tensor forward(const Layers& layers, const std::vector<Needs>& needs, const Tensors& parameters,
                   const at::Tensor& x, Tape& tape);

// Every dC/dtheta in the order of backprop.flat, and dC/dx; undefined where not wanted. ``kept``
// is emptied. ``injected`` has dC/da of each layer as far as C reads it itself. A delta is written
// over only where ``over``, and never one that was given.
Tensors backward(const Layers& layers, const std::vector<Needs>& needs, at::Tensor delta,
                 Tensors& kept, const Tensors& injected, bool over);

}  // namespace manualbp::exact
