// The losses, forward and backward one above the other, in autograd's order of operations.
#include <ATen/TensorIndexing.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/_log_softmax_backward_data.h>
#include <ATen/ops/binary_cross_entropy_with_logits.h>
#include <ATen/ops/huber_loss.h>
#include <ATen/ops/huber_loss_backward.h>
#include <ATen/ops/l1_loss.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/mse_loss.h>
#include <ATen/ops/mse_loss_backward.h>
#include <ATen/ops/nll_loss_backward.h>
#include <ATen/ops/nll_loss_forward.h>
#include <ATen/ops/sgn.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/smooth_l1_loss.h>
#include <ATen/ops/smooth_l1_loss_backward.h>
#include <ATen/ops/where.h>

#include <map>
#include <stdexcept>

#include "cost.h"

namespace manualbp::exact {

using at::Tensor;

namespace {

constexpr int64_t NONE = 0, MEAN = 1;

std::optional<Tensor> optional(const Tensor& t) {
  return t.defined() ? std::optional<Tensor>(t) : std::nullopt;
}

// The 1/n of the mean, n all elements.
Tensor averaged(const Loss& loss, const Tensor& gradient) {
  return loss.reduction == MEAN ? gradient / gradient.numel() : gradient;
}

Tensor weighted(const Loss& loss, const Tensor& values) {
  return loss.weight.defined() ? values * loss.weight : values;
}

// dC/do = sign(o - y) / n
Tensor l1_backward(const Loss& loss, const Tensor& grad, const Tensor& o, const Tensor& y) {
  return averaged(loss, grad.expand(o.sizes())) * at::sgn(o - y);
}

// dC/do = w [s (1 - y + p y) - p y] / n,  s = sigmoid(o)
Tensor bce_backward(const Loss& loss, const Tensor& grad, const Tensor& o, const Tensor& y) {
  Tensor error;
  if (loss.pos_weight.defined()) {
    const Tensor positive = loss.pos_weight * y;
    error = (positive + 1 - y) * at::sigmoid(o) - positive;
  } else {
    error = at::sigmoid(o) - y;
  }
  return averaged(loss, weighted(loss, error * grad));
}

// Cross-entropy: C = -sum_c w_c q_c log p_c / n,  dC/dlog p_c = -w_c q_c / n.
//
// The target is a distribution q for each sample, with n their number (`probabilities`); or a class
// index y, where q is 1 at y alone, and n the sum of w_y (`indices`). e smooths both.

int64_t samples(const Tensor& log_p) { return log_p.numel() / log_p.size(-1); }

// (1 - e) q + e / classes
Tensor smoothed(const Loss& loss, const Tensor& q) {
  return loss.p > 0 ? q * (1 - loss.p) + loss.p / static_cast<double>(q.size(-1)) : q;
}

// n for class indices: the sum of w_y over the samples that count.
Tensor count(const Loss& loss, const Tensor& y) {
  const Tensor kept = y != loss.ignore_index;
  if (!loss.weight.defined()) return kept.sum();
  if (y.is_cpu()) return loss.weight.index({y.to(at::kLong).index({kept})}).sum();
  const Tensor classes = at::where(kept, y.to(at::kLong), 0);
  return at::where(kept, loss.weight.index({classes}), 0).sum();
}

// C = -sum_i sum_c w_c q_ic log p_ic / n
Costs probabilities(const Loss& loss, const Tensor& log_p, const Tensor& y) {
  const Tensor errors = weighted(loss, log_p * smoothed(loss, y));
  if (loss.reduction == NONE) return {-errors.sum(-1), log_p, {}};
  const Tensor sum = -errors.sum();
  return {loss.reduction == MEAN ? sum / samples(log_p) : sum, log_p, {}};
}

// dC/dlog p_ic = -w_c q_ic / n
Tensor probabilities_backward(const Loss& loss, Tensor grad, const Tensor& log_p, const Tensor& y) {
  if (loss.reduction == MEAN) grad = grad / samples(log_p);
  grad = -grad;
  if (loss.reduction == NONE) grad = grad.unsqueeze(-1);
  return weighted(loss, grad.expand(log_p.sizes())) * smoothed(loss, y);
}

// C = (1 - e) nll + e / classes * smooth
// nll = -sum_i w_y log p_iy / n,  smooth = -sum_i sum_c w_c log p_ic / n
Costs indices(const Loss& loss, const Tensor& log_p, const Tensor& y) {
  const double e = loss.p;
  auto [nll, n] =
      at::nll_loss_forward(log_p, y, optional(loss.weight), loss.reduction, loss.ignore_index);
  if (e == 0) return {nll, log_p, n};
  Tensor smooth = -weighted(loss, log_p).sum(-1).masked_fill(y == loss.ignore_index, 0);
  if (loss.reduction != NONE) smooth = smooth.sum();
  if (loss.reduction == MEAN) smooth = smooth / count(loss, y);
  return {nll * (1 - e) + smooth * (e / static_cast<double>(log_p.size(-1))), log_p, n};
}

Tensor nll_backward(const Loss& loss, const Tensor& grad, const Tensor& log_p, const Tensor& y,
                    const Tensor& n) {
  return at::nll_loss_backward(grad, log_p, y, optional(loss.weight), loss.reduction,
                               loss.ignore_index, n);
}

// dC/dlog p_ic = -[(1 - e) w_y where c is y, else 0] / n - e / classes * w_c / n
Tensor indices_backward(const Loss& loss, const Tensor& grad, const Tensor& log_p, const Tensor& y,
                        const Tensor& n) {
  if (loss.p == 0) return nll_backward(loss, grad, log_p, y, n);
  Tensor smooth = grad * (loss.p / static_cast<double>(log_p.size(-1)));
  if (loss.reduction == MEAN) smooth = smooth / count(loss, y);
  smooth = -smooth.expand(y.sizes()).masked_fill(y == loss.ignore_index, 0);
  smooth = weighted(loss, smooth.unsqueeze(-1).expand(log_p.sizes()));
  return nll_backward(loss, grad * (1 - loss.p), log_p, y, n) + smooth;
}

}  // namespace

Errors errors_of(const std::string& name) {
  static const std::map<std::string, Errors> kinds{
      {"MSE", Errors::mse},           {"L1", Errors::l1},
      {"Huber", Errors::huber},       {"SmoothL1", Errors::smooth_l1},
      {"BCEWithLogits", Errors::bce}, {"CrossEntropy", Errors::cross_entropy}};
  const auto found = kinds.find(name);
  if (found == kinds.end()) throw std::invalid_argument("no loss is called " + name);
  return found->second;
}

Costs forward(const Loss& loss, const Tensor& o, const Tensor& y) {
  switch (loss.kind) {
    case Errors::mse:
      return {at::mse_loss(o, y, loss.reduction), o, {}};
    case Errors::l1:
      return {at::l1_loss(o, y, loss.reduction), o, {}};
    case Errors::huber:
      return {at::huber_loss(o, y, loss.reduction, loss.p), o, {}};
    case Errors::smooth_l1:
      return {loss.p == 0 ? at::l1_loss(o, y, loss.reduction)
                          : at::smooth_l1_loss(o, y, loss.reduction, loss.p),
              o,
              {}};
    case Errors::bce:
      return {at::binary_cross_entropy_with_logits(o, y, optional(loss.weight),
                                                   optional(loss.pos_weight), loss.reduction),
              o,
              {}};
    case Errors::cross_entropy:
      break;
  }
  const Tensor log_p = at::log_softmax(o, -1);
  return y.is_floating_point() ? probabilities(loss, log_p, y) : indices(loss, log_p, y);
}

Tensor backward(const Loss& loss, const Tensor& grad, const Tensor& x, const Tensor& y,
                const Tensor& n) {
  switch (loss.kind) {
    case Errors::mse:
      return at::mse_loss_backward(grad, x, y, loss.reduction);
    case Errors::l1:
      return l1_backward(loss, grad, x, y);
    case Errors::huber:
      return at::huber_loss_backward(grad, x, y, loss.reduction, loss.p);
    case Errors::smooth_l1:
      return loss.p == 0 ? l1_backward(loss, grad, x, y)
                         : at::smooth_l1_loss_backward(grad, x, y, loss.reduction, loss.p);
    case Errors::bce:
      return bce_backward(loss, grad, x, y);
    case Errors::cross_entropy:
      break;
  }
  return y.is_floating_point() ? probabilities_backward(loss, grad, x, y)
                               : indices_backward(loss, grad, x, y, n);
}

// dC/do = delta - p sum_c delta_c
Tensor log_softmax_backward(const Tensor& delta, const Tensor& log_p) {
  return at::_log_softmax_backward_data(delta, log_p, -1, log_p.scalar_type());
}

}  // namespace manualbp::exact
