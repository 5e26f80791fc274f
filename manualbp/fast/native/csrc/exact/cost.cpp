#include "cost.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/add.h>
#include <torch/csrc/autograd/functions/utils.h>

namespace manualbp::exact {

using at::Tensor;
using torch::autograd::variable_list;

Tensor cost(const Loss& loss, const Held& rule, const Tensor& o, const Tensor& y) {
  Costs found;
  {
    at::AutoDispatchBelowADInplaceOrView no_graph;
    found = forward(loss, o, y);
  }
  if (!at::GradMode::is_enabled() || !o.requires_grad()) return found.cost;

  auto node = new_node<CostNode>();
  node->loss = loss;
  node->rule = rule;
  torch::autograd::edge_list edges{torch::autograd::impl::gradient_edge(o), {}};
  for (const auto& weight : {loss.weight, loss.pos_weight}) {
    if (weight.defined()) edges.emplace_back();
  }
  node->set_next_edges(std::move(edges));
  torch::autograd::set_history(found.cost, node);
  const bool made_x = loss.kind == Errors::cross_entropy;
  // log p is what backward reads. It counts as an output, so that it carries its graph.
  if (made_x) torch::autograd::set_history(found.x, node);
  node->save(found.x, made_x);
  node->save(y, false);
  if (found.n.defined()) node->save(found.n, false);
  for (const auto& weight : {loss.weight, loss.pos_weight}) {
    if (weight.defined()) node->save(weight, false);
  }
  return found.cost;
}

variable_list CostNode::apply(variable_list&& incoming) {
  Tensors kept = unpacked();
  Tensors grads = std::move(incoming);
  variable_list found(num_outputs());
  if (at::GradMode::is_enabled() || transforms_active() || !plain(grads) || !plain(kept)) {
    found[0] = in_python(loss.recursion, rule, grads, kept);
  } else {
    at::AutoDispatchBelowADInplaceOrView no_graph;
    found[0] = gradient(loss, grads, kept);
  }
  return found;
}

Tensor gradient(const Loss& loss, const Tensors& grads, const Tensors& kept) {
  Tensor delta;
  if (grads[0].defined()) {
    const size_t weights = loss.weight.defined() + loss.pos_weight.defined();
    const bool counted = kept.size() > 2 + weights;
    delta = backward(loss, grads[0], kept[0], kept[1], counted ? kept[2] : Tensor());
  }
  if (loss.kind != Errors::cross_entropy) return delta;
  if (grads[1].defined()) delta = delta.defined() ? at::add(delta, grads[1]) : grads[1];
  return delta.defined() ? log_softmax_backward(delta, kept[0]) : delta;
}

}  // namespace manualbp::exact
