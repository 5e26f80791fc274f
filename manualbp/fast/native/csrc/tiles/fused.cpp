#include "tiles/fused.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/mul.h>
#include <torch/csrc/autograd/functions/utils.h>

#include <algorithm>

namespace manualbp {

using at::Tensor;
using exact::SavingNode;
using exact::Tensors;
using torch::autograd::variable_list;

void lead_to(SavingNode& node, const Net& net, const Tensor& x) {
  torch::autograd::edge_list edges;
  edges.reserve(net.parameters.size() + 1);
  for (const auto& p : net.parameters) edges.push_back(torch::autograd::impl::gradient_edge(p));
  edges.push_back(torch::autograd::impl::gradient_edge(x));
  node.set_next_edges(std::move(edges));
}

void save_parameters(SavingNode& node, const Net& net) {
  for (const auto& p : net.parameters) {  // p.detach(), without the dispatcher's time
    const auto* impl = p.unsafeGetTensorImpl();
    node.save(Tensor(impl->shallow_copy_and_detach(impl->version_counter(), false)), false);
  }
}

std::vector<bool> wanted(const Net& net, const Tensor& x) {
  std::vector<bool> wants;
  wants.reserve(net.parameters.size() + 1);
  for (const auto& p : net.parameters) wants.push_back(p.requires_grad());
  wants.push_back(x.requires_grad());
  if (!at::GradMode::is_enabled()) std::fill(wants.begin(), wants.end(), false);
  return wants;
}

const Net& with_parameters(const Net& net, const Tensors& parameters, std::optional<Net>& as_then) {
  const auto same = [](const Tensor& a, const Tensor& b) {
    return a.const_data_ptr() == b.const_data_ptr() && a.strides() == b.strides();
  };
  if (std::equal(parameters.begin(), parameters.end(), net.parameters.begin(), same)) return net;
  as_then.emplace(net).parameters = parameters;
  return *as_then;
}

Tensor chain(const NetPtr& net, const Tensor& x, bool keeps) {
  auto wants = wanted(*net, x);
  const bool trains = any(wants);
  Tensors kept;
  Tensor o;
  {
    at::AutoDispatchBelowADInplaceOrView no_graph;  // autograd does not record what is in here
    o = pass_up(*net, x.contiguous(), keeps && trains ? &kept : nullptr);
  }
  if (!trains) return o;
  auto node = exact::new_node<TilesNode>();
  node->net = net;
  lead_to(*node, *net, x);
  torch::autograd::set_history(o, node);
  node->then = std::move(wants);
  save_parameters(*node, *net);
  node->save(x, false);
  for (const auto& each : kept) node->save(each, false);
  if (keeps) node->save(o, true);
  return o;
}

// From dC/do: every dC/dtheta, then dC/dx; by Python's recursion where that is recorded.
variable_list TilesNode::apply(variable_list&& grads) {
  Tensors saved = unpacked();
  const auto count = net->parameters.size();
  const Tensor x = saved[count], delta = grads[0];
  std::vector<bool> wants;
  for (size_t i = 0; i <= count; ++i) wants.push_back(asked(i) && then[i]);
  if (!delta.defined()) return variable_list(count + 1);
  const Tensors parameters(saved.begin(), saved.begin() + count);
  if (at::GradMode::is_enabled() || exact::transforms_active() || !exact::plain({delta})) {
    return net->recorded(x, parameters, delta, then, wants);
  }
  at::AutoDispatchBelowADInplaceOrView no_graph;
  const KeptTensors kept(saved.begin() + count + 1, saved.end());
  std::optional<Net> as_then;
  const Net& now = with_parameters(*net, parameters, as_then);
  auto found = pass_down(now, x.contiguous(), delta.contiguous(), kept, wants);
  found.parameters.push_back(found.x);
  return std::move(found.parameters);
}

Tensor fused_cost(const NetPtr& net, const exact::Loss& loss, const Tensor& x, const Tensor& y) {
  const auto wants = wanted(*net, x);
  Gradients found;
  Tensor cost;
  {
    at::AutoDispatchBelowADInplaceOrView no_graph;
    cost = pass_both(*net, loss, x.contiguous(), y, wants, found);
  }
  if (!any(wants)) return cost;
  auto node = exact::new_node<FusedNode>();
  lead_to(*node, *net, x);
  torch::autograd::set_history(cost, node);
  for (const auto& gradient : found.parameters) node->save(gradient, false);
  node->save(found.x, false);
  return cost;
}

// grad dC/dtheta and grad dC/dx, with grad the cotangent of C.
variable_list FusedNode::apply(variable_list&& grads) {
  TORCH_CHECK(!at::GradMode::is_enabled(),
              "FusedLoss has no second derivatives: expected backward without create_graph=True; "
              "use loss(model(x), y) for them");
  const bool kept = torch::autograd::get_current_graph_task_keep_graph();
  Tensors found = unpacked();
  const Tensor& grad = grads[0];
  if (!grad.defined()) return variable_list(found.size());
  // After loss.backward() there is nothing to multiply by. Where backward may come again, the
  // caller gets copies, since it may change them.
  const bool is_one = exact::plain({grad}) && !exact::transforms_active() && grad.is_cpu() &&
                      grad.item<double>() == 1;
  for (size_t i = 0; i < found.size(); ++i) {
    if (found[i].defined() && (kept || !is_one)) found[i] = at::mul(grad, found[i]);
  }
  return found;
}

Tensor fused_backward(const NetPtr& net, const exact::Loss& loss, const Tensor& x,
                      const Tensor& y) {
  const auto wants = wanted(*net, x);
  at::NoGradGuard no_graph;
  Gradients found;
  Tensor cost = pass_both(*net, loss, x.contiguous(), y, wants, found);
  const auto add = [](const Tensor& leaf, Tensor& gradient) {
    if (!gradient.defined()) return;
    auto& grad = leaf.mutable_grad();
    if (grad.defined()) {
      grad.add_(gradient);
    } else {
      grad = std::move(gradient);
    }
  };
  for (size_t i = 0; i < net->parameters.size(); ++i) add(net->parameters[i], found.parameters[i]);
  add(x, found.x);
  return cost;
}

bool accumulates(const Net& net, const Tensor& x) {
  namespace impl = torch::autograd::impl;
  // Whether nobody would notice that autograd's engine does not add to this one's .grad.
  const auto free = [](const Tensor& t) {
    if (!t.requires_grad()) return true;
    if (!t.is_leaf() || !impl::hooks(t).empty() || impl::post_acc_grad_hooks(t)) return false;
    if (t.grad().defined() && (t.grad().requires_grad() || t.grad().layout() != at::kStrided)) {
      return false;
    }
    const auto node = impl::try_get_grad_accumulator(t);
    return !node || (node->pre_hooks().empty() && node->post_hooks().empty() &&
                     node->tensor_pre_hooks().empty());
  };
  const auto wants = wanted(net, x);
  return any(wants) && free(x) && std::all_of(net.parameters.begin(), net.parameters.end(), free);
}

}  // namespace manualbp
