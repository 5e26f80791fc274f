#include "fused.h"

#include <ATen/Functions.h>
#include <ATen/TensorOperators.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/graph_task.h>
#include <torch/csrc/autograd/variable.h>

namespace manualbp {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

namespace {

// Each parameter's requires_grad, then x's.
std::vector<bool> wanted(const Net& net, const at::Tensor& x) {
  std::vector<bool> wants;
  for (const auto& p : net.parameters) wants.push_back(p.requires_grad());
  wants.push_back(x.requires_grad());
  return wants;
}

variable_list tensors(const Net& net, const at::Tensor& x) {
  variable_list all = net.parameters;
  all.push_back(x);
  return all;
}

// What was saved; and as no other backward pass may come, it is not held any longer.
variable_list take_saved(AutogradContext* ctx) {
  auto saved = ctx->get_saved_variables();
  if (!torch::autograd::get_current_graph_task_keep_graph()) {
    torch::autograd::get_current_node()->release_variables();
  }
  return saved;
}

bool plain(const at::Tensor& t) {
  return !t.key_set().has_any(c10::DispatchKeySet(
      {c10::DispatchKey::FuncTorchBatched, c10::DispatchKey::Batched, c10::DispatchKey::Python}));
}

}  // namespace

// C with its gradients, which forward computes: backward multiplies them by the cotangent of C.
struct FusedCost : torch::autograd::Function<FusedCost> {
  static at::Tensor forward(AutogradContext* ctx, const NetPtr& net, const Loss& loss,
                            const at::Tensor& y, const std::vector<bool>& wants,
                            at::TensorList all) {
    Gradients found;
    auto cost = pass_both(*net, loss, all.back().contiguous(), y, wants, found);
    variable_list saved = std::move(found.parameters);
    saved.push_back(found.x);
    ctx->save_for_backward(std::move(saved));
    return cost;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    TORCH_CHECK(!at::GradMode::is_enabled(),
                "FusedLoss has no second derivatives: expected backward without "
                "create_graph=True; use loss(model(x), y) for them");
    const auto& grad = grads[0];
    const bool kept = torch::autograd::get_current_graph_task_keep_graph();
    auto found = take_saved(ctx);
    // After loss.backward() there is nothing to multiply by. Where backward may come again, the
    // caller gets copies, since it may change them.
    const bool is_one = plain(grad) && grad.item<double>() == 1;
    if (kept || !is_one) {
      for (auto& g : found) g = g.defined() ? grad * g : g;
    }
    found.insert(found.begin(), 4, at::Tensor());
    return found;
  }
};

// o, and its node.
struct FastChain : torch::autograd::Function<FastChain> {
  static at::Tensor forward(AutogradContext* ctx, const NetPtr& net, bool keeps,
                            at::TensorList all) {
    KeptTensors kept;
    const auto x = all.back().contiguous();
    auto o = pass_up(*net, x, keeps ? &kept : nullptr);
    variable_list saved(all.begin(), all.end() - 1);
    saved.push_back(all.back());
    if (keeps) {
      saved.insert(saved.end(), kept.begin(), kept.end());
      saved.push_back(o);
    }
    ctx->save_for_backward(std::move(saved));
    ctx->saved_data["net"] = c10::IValue::make_capsule(net);
    return o;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto net = c10::static_intrusive_pointer_cast<Net>(ctx->saved_data["net"].toCapsule());
    const size_t count = net->parameters.size();
    std::vector<bool> wants;
    for (size_t i = 0; i <= count; ++i) wants.push_back(ctx->needs_input_grad(i));
    auto saved = take_saved(ctx);
    const auto x = saved[count];
    variable_list result;
    if (at::GradMode::is_enabled() || !plain(grads[0])) {
      result = net->recorded(x, {saved.begin(), saved.begin() + count}, grads[0], wants);
    } else {
      const KeptTensors kept(saved.begin() + count + 1, saved.end());
      auto found = pass_down(*net, x.contiguous(), grads[0].contiguous(), kept, wants);
      result = std::move(found.parameters);
      result.push_back(found.x);
    }
    result.insert(result.begin(), 2, at::Tensor());
    return result;
  }
};

at::Tensor chain(const NetPtr& net, const at::Tensor& x, bool keeps) {
  const auto all = tensors(*net, x);
  return FastChain::apply(net, keeps, at::TensorList(all));
}

at::Tensor fused_cost(const NetPtr& net, const Loss& loss, const at::Tensor& x,
                      const at::Tensor& y) {
  const auto all = tensors(*net, x);
  return FusedCost::apply(net, loss, y, wanted(*net, x), at::TensorList(all));
}

at::Tensor fused_backward(const NetPtr& net, const Loss& loss, const at::Tensor& x,
                          const at::Tensor& y) {
  at::NoGradGuard no_graph;
  Gradients found;
  auto cost = pass_both(*net, loss, x.contiguous(), y, wanted(*net, x), found);
  const auto add = [](const at::Tensor& leaf, at::Tensor& gradient) {
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

bool accumulates(const Net& net, const at::Tensor& x) {
  namespace impl = torch::autograd::impl;
  const auto free = [](const at::Tensor& t) {
    if (!t.requires_grad()) return true;
    if (!t.is_leaf() || !impl::hooks(t).empty() || impl::post_acc_grad_hooks(t)) return false;
    const auto node = impl::try_get_grad_accumulator(t);
    return !node || (node->pre_hooks().empty() && node->post_hooks().empty() &&
                     node->tensor_pre_hooks().empty());
  };
  return free(x) && std::all_of(net.parameters.begin(), net.parameters.end(), free);
}

}  // namespace manualbp
