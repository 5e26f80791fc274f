// A chain of Linear and activations as one node of autograd's graph.
//
// The C++ twin of manualbp/autograd/chain.py, first order. Hidden activations that are kept count
// as outputs, so what is kept carries its graph. Where autograd records the backward pass, or a
// transform looks at it, the recursion in Python runs, with the same tape.
#pragma once
#include "node.h"
#include "recursion.h"

namespace manualbp::exact {

struct Chain {
  Layers layers;
  Held recursion;  // Python's chain.py ``backward_of``
};

// o, or skip + o, with skip = x. ``segment`` is Python's manualbp.autograd.segment.Segment.
at::Tensor run(const std::shared_ptr<const Chain>& chain, const Held& segment,
               const Tensors& parameters, const at::Tensor& x, bool residual);

// The backward pass by Python's recursion. ``kept`` is emptied.
Tensors in_python(const Held& recursion, const Held& segment, const Wants& then, const Wants& now,
                  const std::vector<int>& hidden, const Tensors& grads, Tensors& kept);

struct ExactNode : SavingNode {
  std::string name() const override { return "ChainBackward"; }
  torch::autograd::variable_list apply(torch::autograd::variable_list&& grads) override;
  void compiled_args(torch::autograd::CompiledNodeArgs& args) const override;
  torch::autograd::variable_list apply_with_saved(
      const torch::autograd::variable_list& grads,
      torch::dynamo::autograd::SwapSavedVariables& saved) override;

  std::shared_ptr<const Chain> chain;
  Held segment;
  Wants present;            // of the parameters and x: which are tensors, and have an edge
  Wants then;               // which of them wanted a gradient at forward
  std::vector<int> hidden;  // the layers whose outputs are outputs 1, 2, ... of this node
  bool residual = false;
};

// dC/da of each layer as far as C reads it itself: ``grads`` of outputs 1, 2, ...; else empty.
Tensors injected_at(size_t layers, const std::vector<int>& hidden, Tensors& grads);

// The gradients of skip, of the parameters that are present, and of x: one per edge of the node.
torch::autograd::variable_list by_edge(bool residual, const Wants& present,
                                       const at::Tensor& for_skip, Tensors& found);

}  // namespace manualbp::exact
