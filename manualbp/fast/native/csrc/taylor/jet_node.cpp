#include "taylor/jet_node.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/matmul.h>
#include <torch/csrc/autograd/functions/utils.h>

#include <algorithm>

#include "taylor/gradient_passes.h"
#include "tiles/fused.h"

namespace manualbp {

using at::Tensor;
using torch::autograd::variable_list;

Derived derivatives(const JetChainPtr& chain, const Tensor& x, const Tensor& lines, bool keeps) {
  const Net& net = *chain->net;
  auto wants = wanted(net, x);
  const bool trains = any(wants);
  KeptJets kept;
  Derived found;
  {
    at::AutoDispatchBelowADInplaceOrView no_graph;  // autograd does not record what is in here
    if (chain->few_outputs) {
      found = gradient_up(net, x.contiguous(), keeps && trains, kept);
      if (lines.defined()) found[1] = at::matmul(found[1], lines.mT());
    } else {
      found = jets_up(net, chain->order, lines, x.contiguous(), keeps && trains, kept);
    }
  }
  if (!trains) return found;
  auto node = exact::new_node<JetNode>();
  node->chain = chain;
  lead_to(*node, net, x);
  for (auto& each : found) torch::autograd::set_history(each, node);
  node->then = std::move(wants);
  node->points = kept.points;
  node->saved.reserve(net.parameters.size() + 3);
  save_parameters(*node, net);
  node->save(x, false);
  node->save(lines, false);
  node->save(kept.z, false);
  return found;
}

variable_list JetNode::apply(variable_list&& grads) {
  exact::Tensors saved = unpacked();
  const auto count = chain->net->parameters.size();
  std::vector<bool> wants;
  for (size_t i = 0; i <= count; ++i) wants.push_back(asked(i) && then[i]);
  const bool none = std::none_of(grads.begin(), grads.end(), [](auto& g) { return g.defined(); });
  if (none || !any(wants)) return variable_list(count + 1);
  const exact::Tensors parameters(saved.begin(), saved.begin() + count);
  const Tensor x = saved[count], lines = saved[count + 1];
  if (at::GradMode::is_enabled() || exact::transforms_active() || !exact::plain(grads)) {
    return chain->recorded(x, lines, parameters, grads, then, wants);
  }
  at::AutoDispatchBelowADInplaceOrView no_graph;
  if (chain->few_outputs && lines.defined() && grads[1].defined()) {
    grads[1] = at::matmul(grads[1], lines);
  }
  for (auto& g : grads) {
    if (g.defined()) g = g.contiguous();
  }
  std::optional<Net> as_then;
  const Net& net = with_parameters(*chain->net, parameters, as_then);
  const KeptJets kept{saved.back(), points};
  const Tensor at = x.contiguous();
  auto found = chain->few_outputs ? gradient_down(net, at, grads, kept, wants)
                                  : jets_down(net, chain->order, lines, at, grads, kept, wants);
  found.parameters.push_back(found.x);
  return std::move(found.parameters);
}

}  // namespace manualbp
