#include "recursion.h"

#include <ATen/ops/add.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/sum.h>

#include <numeric>

namespace manualbp::exact {
namespace {

using at::Tensor;

// (..., I) as (N, I).
Tensor rows(const Tensor& x) {
  if (x.dim() == 2) return x;
  const auto sizes = x.sizes();
  const auto n = std::accumulate(sizes.begin(), sizes.end() - 1, int64_t{1}, std::multiplies<>());
  return x.reshape({n, sizes.back()});
}

// dC/dh (N, I) in the shape of h (..., I), and in W's dtype where autocast took another.
Tensor like_input(Tensor grad_h, const Tensor& delta, const Tensor& weight) {
  if (delta.dim() != 2) {
    auto shape = delta.sizes().vec();
    shape.back() = weight.size(1);
    grad_h = grad_h.reshape(shape);
  }
  return grad_h.to(weight.scalar_type());
}

bool same_layout(const Tensor& delta, const Tensor& other) {
  return delta.is_contiguous() && other.is_contiguous() &&
         delta.scalar_type() == other.scalar_type();
}

// dC/dW = delta^T h,  dC/db = sum_n delta,  dC/dh = delta W
Tensor linear_backward(const Layer& layer, const Needs& needs, const Tensor& delta, Tensor& h,
                       Tensor& weight, Tensor* grads) {
  const Tensor g = rows(delta);
  if (needs.bias) grads[0] = g.sum(0);
  if (needs.weight) {
    const Tensor flat = rows(h);
    grads[1] = layer.w_column_major ? flat.t().mm(g).t() : g.t().mm(flat);
  }
  h.reset();
  if (!needs.h) return {};
  Tensor below = layer.h_column_major ? weight.t().mm(g.t()).t() : g.mm(weight);
  const bool as_h = delta.dim() == 2 && below.scalar_type() == weight.scalar_type();
  return as_h ? below : like_input(below, delta, weight);
}

// dC/dz = delta f'(z)
Tensor elementwise_backward(const Layer& layer, Tensor delta, const Tensor& z_or_a, bool over) {
  if (layer.in_place && delta.dim() > 2) delta = delta.contiguous();
  over = over && delta.numel() >= layer.over_from && same_layout(delta, z_or_a);
  return slope(layer.f, delta, z_or_a, over);
}

}  // namespace

size_t parameters_of(const Layers& layers) {
  size_t count = 0;
  for (const auto& layer : layers) count += layer.linear ? 2 : 0;
  return count;
}

std::vector<Needs> needs_of(const Layers& layers, const Wants& wants) {
  std::vector<Needs> found(layers.size());
  size_t at = wants.size() - 1;
  bool below = wants[at];
  for (size_t i = 0; i < layers.size(); ++i) {
    found[i].h = below;
    if (!layers[i].linear) continue;
    found[i].weight = wants[--at];
    found[i].bias = wants[--at];
    below = found[i].any();
  }
  return found;
}

Tensor forward(const Layers& layers, const std::vector<Needs>& needs, const Tensors& parameters,
               const Tensor& x, Tape& tape) {
  Tensor h = x;
  int made_by = -1;
  size_t at = parameters.size();
  const auto keep = [&tape](bool wanted, const Tensor& t, int made_by) {
    tape.kept.push_back(wanted ? t : Tensor());
    tape.made_by.push_back(made_by);
  };
  for (size_t i = 0; i < layers.size(); ++i) {
    const auto& layer = layers[i];
    if (layer.linear) {
      // z = h W^T + b
      const Tensor &weight = parameters[--at], &bias = parameters[--at];
      Tensor z = at::linear(h, weight, bias);
      keep(needs[i].weight, h, made_by);
      keep(needs[i].h, needs[i].h ? weight.tensor_data() : weight, -1);
      h = std::move(z);
    } else {
      // a = f(z). Nobody keeps a z that f' does not read, so a may take its place.
      const bool fresh = i > 0 && layers[i - 1].linear;
      const bool from_a = layer.f.reads_a();
      Tensor a = activate(layer.f, h, fresh && (from_a || !needs[i].h));
      keep(needs[i].h, from_a ? a : h, from_a ? static_cast<int>(i) : made_by);
      h = std::move(a);
    }
    made_by = static_cast<int>(i);
  }
  return h;
}

Tensors backward(const Layers& layers, const std::vector<Needs>& needs, Tensor delta, Tensors& kept,
                 const Tensors& injected, bool over) {
  Tensors grads(parameters_of(layers) + 1);
  size_t at = 0;
  bool ours = false;  // whether delta is a layer's result, or a sum, and nobody else's tensor
  for (size_t i = layers.size(); i-- > 0;) {
    if (!needs[i].any()) return grads;  // nor below
    if (i < injected.size() && injected[i].defined()) {
      ours = delta.defined();
      delta = ours ? at::add(delta, injected[i]) : injected[i];
    }
    const auto& layer = layers[i];
    Tensor last = std::move(kept.back());
    kept.pop_back();
    if (layer.linear) {
      Tensor h = std::move(kept.back());
      kept.pop_back();
      if (delta.defined()) delta = linear_backward(layer, needs[i], delta, h, last, &grads[at]);
      at += 2;
    } else if (delta.defined()) {
      delta = elementwise_backward(layer, std::move(delta), last, over && ours);
    }
    ours = true;
  }
  grads.back() = delta;
  return grads;
}

}  // namespace manualbp::exact
