#include "exact.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/add.h>
#include <torch/csrc/autograd/functions/utils.h>

#include <algorithm>

namespace manualbp::exact {

using at::Tensor;
using torch::autograd::variable_list;

namespace {

// Outputs 1, 2, ... of the node: the hidden activations that are on the tape. o itself leaves
// anyway, unless it is added to skip.
template <class Pointer>  // to the node
void leave(const Pointer& node, const Tape& tape) {
  const int end = static_cast<int>(node->chain->layers.size()) - (node->residual ? 0 : 1);
  for (size_t i = 0; i < tape.kept.size(); ++i) {
    const int layer = tape.made_by[i];
    const bool again = !node->hidden.empty() && node->hidden.back() == layer;
    if (layer < 0 || layer >= end || again || !tape.kept[i].defined()) continue;
    torch::autograd::set_history(tape.kept[i], node);
    node->hidden.push_back(layer);
  }
}

torch::autograd::edge_list edges(const ExactNode& node, const Tensors& parameters,
                                 const Tensor& x) {
  torch::autograd::edge_list found;
  found.reserve(parameters.size() + 2);
  if (node.residual) found.push_back(torch::autograd::impl::gradient_edge(x));
  for (const auto& t : parameters) {
    if (t.defined()) found.push_back(torch::autograd::impl::gradient_edge(t));
  }
  found.push_back(torch::autograd::impl::gradient_edge(x));
  return found;
}

}  // namespace

Tensor run(const std::shared_ptr<const Chain>& chain, const Held& segment,
           const Tensors& parameters, const Tensor& x, bool residual) {
  Wants then;
  then.reserve(parameters.size() + 1);
  for (const auto& t : parameters) then.push_back(t.defined() && t.requires_grad());
  then.push_back(x.requires_grad());
  const bool trained =
      at::GradMode::is_enabled() && std::find(then.begin(), then.end(), true) != then.end();
  if (!trained) std::fill(then.begin(), then.end(), false);

  Tensor o;
  Tape tape;
  {
    at::AutoDispatchBelowADInplaceOrView no_graph;  // autograd does not record what is in here
    o = forward(chain->layers, needs_of(chain->layers, then), parameters, x, tape);
    if (residual) o = at::add(x, o);
  }
  if (!trained) return o;

  auto node = new_node<ExactNode>();
  node->chain = chain;
  node->segment = segment;
  node->residual = residual;
  for (const auto& t : parameters) node->present.push_back(t.defined());
  node->present.push_back(true);
  node->then = std::move(then);
  node->set_next_edges(edges(*node, parameters, x));
  torch::autograd::set_history(o, node);
  leave(node, tape);
  node->saved.reserve(tape.kept.size());
  for (size_t i = 0; i < tape.kept.size(); ++i) node->save(tape.kept[i], tape.made_by[i] >= 0);
  return o;
}

variable_list ExactNode::apply(variable_list&& incoming) {
  Tensors kept = unpacked();
  Tensors grads = std::move(incoming);
  size_t edge = residual ? 1 : 0;
  Wants now(present.size());
  for (size_t i = 0; i < present.size(); ++i) {
    if (present[i]) now[i] = asked(edge++) && then[i];
  }
  const Tensor for_skip = residual && asked(0) && then.back() ? grads[0] : Tensor();

  Tensors found;
  if (at::GradMode::is_enabled() || transforms_active() || !plain(grads) || !plain(kept)) {
    found = in_python(chain->recursion, segment, then, now, hidden, grads, kept);
  } else {
    at::AutoDispatchBelowADInplaceOrView no_graph;
    Tensors injected = injected_at(chain->layers.size(), hidden, grads);
    Tensor delta = std::move(grads[0]);
    found = backward(chain->layers, needs_of(chain->layers, now), std::move(delta), kept, injected,
                     true);
  }
  return by_edge(residual, present, for_skip, found);
}

Tensors injected_at(size_t layers, const std::vector<int>& hidden, Tensors& grads) {
  Tensors found;
  for (size_t i = 0; i < hidden.size(); ++i) {
    if (!grads[i + 1].defined()) continue;
    found.resize(layers);
    found[hidden[i]] = std::move(grads[i + 1]);
  }
  return found;
}

variable_list by_edge(bool residual, const Wants& present, const Tensor& for_skip, Tensors& found) {
  variable_list result;
  result.reserve(present.size() + 1);
  if (residual) result.push_back(for_skip);
  for (size_t i = 0; i < present.size(); ++i) {
    if (present[i]) result.push_back(std::move(found[i]));
  }
  return result;
}

}  // namespace manualbp::exact
