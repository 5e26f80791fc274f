// u and its derivatives for autograd: the passes of jet_passes.h with a node of the graph.
#pragma once
#include "exact/node.h"
#include "taylor/jet_passes.h"

namespace manualbp {

// A chain whose derivatives are asked for: along lines they go up with it, or where `few_outputs`
// du comes down (gradient_tile.h).
struct JetChain {
  NetPtr net;
  Order order;
  bool few_outputs;
  // Every dC/dtheta, then dC/dx, by Python, for a pass that autograd records. `then` and `now`:
  // whether each of these wanted a gradient at forward, and wants one now.
  using Tensors = std::vector<at::Tensor>;
  std::function<Tensors(const at::Tensor& x, const at::Tensor& lines, const Tensors& parameters,
                        const Tensors& grads, const Net::Wants& then, const Net::Wants& now)>
      recorded;
};

using JetChainPtr = std::shared_ptr<const JetChain>;

// lines (K, I) or (N, K, I); undefined for the axes, with few outputs alone. Where `keeps`, what
// the way down reads is kept; else it is computed again.
Derived derivatives(const JetChainPtr& chain, const at::Tensor& x, const at::Tensor& lines,
                    bool keeps);

// Saves x, the lines, the parameters, and what the pass up kept.
struct JetNode : exact::SavingNode {
  std::string name() const override { return "DerivativesBackward"; }
  torch::autograd::variable_list apply(torch::autograd::variable_list&& grads) override;
  JetChainPtr chain;
  Net::Wants then;
  int64_t points;  // of a tile
};

}  // namespace manualbp
