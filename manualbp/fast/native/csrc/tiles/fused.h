// A chain and its loss for autograd: fast/__init__.py calls these.
#pragma once
#include "passes.h"

namespace manualbp {

using NetPtr = c10::intrusive_ptr<Net>;

// o of x (N, I), with a node that makes one pass down. Where `keeps`, activations are kept;
// else they are computed again.
at::Tensor chain(const NetPtr& net, const at::Tensor& x, bool keeps);

// C(o, y), with every gradient ready for backward.
at::Tensor fused_cost(const NetPtr& net, const Loss& loss, const at::Tensor& x,
                      const at::Tensor& y);

// C(o, y), and no graph: adds every gradient to .grad. Nothing has changed where it throws.
at::Tensor fused_backward(const NetPtr& net, const Loss& loss, const at::Tensor& x,
                          const at::Tensor& y);

// Whether .grad of all that want a gradient can be added to: leaves, without hooks on them.
bool accumulates(const Net& net, const at::Tensor& x);

}  // namespace manualbp
