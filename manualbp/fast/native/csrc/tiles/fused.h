// A chain, or a chain and its loss, for autograd: the passes of passes.h with a node of the graph.
#pragma once
#include <optional>

#include "exact/node.h"
#include "tiles/passes.h"

namespace manualbp {

// o of x (N, I), with a node that makes one pass down. Where `keeps`, activations are kept;
// else they are computed again.
at::Tensor chain(const NetPtr& net, const at::Tensor& x, bool keeps);

// C(o, y), with a node that has every gradient ready.
at::Tensor fused_cost(const NetPtr& net, const exact::Loss& loss, const at::Tensor& x,
                      const at::Tensor& y);

// C(o, y), and no graph: adds every gradient to .grad. Nothing has changed where it throws.
at::Tensor fused_backward(const NetPtr& net, const exact::Loss& loss, const at::Tensor& x,
                          const at::Tensor& y);

// Whether .grad of all that want a gradient can be added to: leaves, and nothing hooked to them.
bool accumulates(const Net& net, const at::Tensor& x);

// The node's edges: one for each parameter, then one for x.
void lead_to(exact::SavingNode& node, const Net& net, const at::Tensor& x);

// Saves the parameters with their values as they are now: p.data may be another tensor's later.
void save_parameters(exact::SavingNode& node, const Net& net);

// Each parameter's requires_grad, then x's; false for all where no graph is recorded.
std::vector<bool> wanted(const Net& net, const at::Tensor& x);

// The net with the parameters that forward had: itself, or, where p.data was exchanged since, a
// copy in `as_then`.
const Net& with_parameters(const Net& net, const exact::Tensors& parameters,
                           std::optional<Net>& as_then);

// o's node: saves x, the parameters, and what the pass up kept.
struct TilesNode : exact::SavingNode {
  std::string name() const override { return "TilesBackward"; }
  torch::autograd::variable_list apply(torch::autograd::variable_list&& grads) override;
  NetPtr net;
  Net::Wants then;  // which parameters, and whether x, wanted a gradient at forward
};

// C's node: saves the gradients of C themselves, and multiplies them by the cotangent.
struct FusedNode : exact::SavingNode {
  std::string name() const override { return "FusedLossBackward"; }
  torch::autograd::variable_list apply(torch::autograd::variable_list&& grads) override;
};

}  // namespace manualbp
