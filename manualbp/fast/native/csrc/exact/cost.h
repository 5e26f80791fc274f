// A loss as one node of autograd's graph: C(o, y) and dC/do.
//
// The C++ twin of manualbp/autograd/cost.py with maths/losses.py and maths/cross_entropy.py.
#pragma once
#include <optional>
#include <string>

#include "node.h"

namespace manualbp::exact {

enum class Errors { mse, l1, huber, smooth_l1, bce, cross_entropy };

struct Loss {
  Errors kind = Errors::mse;
  int64_t reduction = 1;        // ATen's: 0 none, 1 mean, 2 sum
  double p = 1;                 // Huber's delta; SmoothL1's beta; label smoothing e
  int64_t ignore_index = -100;  // of cross-entropy
  at::Tensor weight, pos_weight;
  Held recursion;  // Python's cost.py ``backward_of``
};

// Raises std::invalid_argument for a name that is not known here.
Errors errors_of(const std::string& name);

// What forward finds: C; x, which backward reads in place of o; n.
struct Costs {
  at::Tensor cost;
  at::Tensor x;  // log softmax(o) for cross-entropy, else o itself
  at::Tensor n;  // for class indices: the sum of the weights that count; else undefined
};
Costs forward(const Loss& loss, const at::Tensor& o, const at::Tensor& y);

// grad dC/dx, with forward's x, y and n.
at::Tensor backward(const Loss& loss, const at::Tensor& grad, const at::Tensor& x,
                    const at::Tensor& y, const at::Tensor& n);
// From dC/dlog p to dC/do, for cross-entropy.
at::Tensor log_softmax_backward(const at::Tensor& delta, const at::Tensor& log_p);

// dC/do from the gradients of C and of log p; ``kept`` x, y, n where there is one, and weights.
at::Tensor gradient(const Loss& loss, const Tensors& grads, const Tensors& kept);

// C. ``rule`` is Python's manualbp.maths.losses.Loss.
at::Tensor cost(const Loss& loss, const Held& rule, const at::Tensor& o, const at::Tensor& y);

// The gradient by Python's rule.
at::Tensor in_python(const Held& recursion, const Held& rule, const Tensors& grads,
                     const Tensors& kept);

struct CostNode : SavingNode {
  std::string name() const override { return "CostBackward"; }
  torch::autograd::variable_list apply(torch::autograd::variable_list&& grads) override;
  void compiled_args(torch::autograd::CompiledNodeArgs& args) const override;
  torch::autograd::variable_list apply_with_saved(
      const torch::autograd::variable_list& grads,
      torch::dynamo::autograd::SwapSavedVariables& saved) override;

  Loss loss;  // its weights are among what is saved
  Held rule;
};

}  // namespace manualbp::exact
