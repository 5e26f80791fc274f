#include "tiles/losses.h"

#include <ATen/core/Reduction.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "tiles/activations.h"

namespace manualbp {

// The losses with one error for each element: the error C and its slope dC/do from o and y, a
// register at a time. p as in Loss; w is pos_weight. Both are still without the 1/n of the mean.
struct ErrorAndSlope {
  Vec cost, slope;
};

// sign(e), with sign(0) = 0 and NaN for NaN
Vec sign(Vec e) {
  const auto zero = number(0);
  const auto found = where(e > zero, number(1), where(e < zero, number(-1), zero));
  return where(e.isnan(), zero, found);
}

// C = e^2,  dC/do = 2 e,  e = o - y
struct SquaredError {
  static ErrorAndSlope of(Vec o, Vec y, Vec, Vec) {
    const auto e = o - y;
    return {e * e, e + e};
  }
};

// C = |e|,  dC/do = sign(e)
struct AbsoluteError {
  static ErrorAndSlope of(Vec o, Vec y, Vec, Vec) {
    const auto e = o - y;
    return {e.abs(), sign(e)};
  }
};

// C = e^2 / 2 where |e| < p, else p (|e| - p / 2),  dC/do = e, or p sign(e)
struct HuberError {
  static ErrorAndSlope of(Vec o, Vec y, Vec p, Vec) {
    const auto e = o - y, size = e.abs(), half = number(0.5);
    const auto outside = size >= p;
    const auto flat = where(e < number(0), p.neg(), p);
    return {where(outside, p * (size - half * p), half * e * e), where(outside, flat, e)};
  }
};

// C = e^2 / (2 p) where |e| < p, else |e| - p / 2,  dC/do = e / p, or sign(e)
struct SmoothError {
  static ErrorAndSlope of(Vec o, Vec y, Vec p, Vec) {
    const auto e = o - y, size = e.abs(), half = number(0.5);
    const auto outside = size >= p, one = number(1);
    const auto flat = where(e < number(0), one.neg(), one);
    return {where(outside, size - half * p, half * e * e / p), where(outside, flat, e / p)};
  }
};

// C = (1 - y) o - (1 + (w - 1) y) log s,  dC/do = (w y + 1 - y) s - w y,  s = sigmoid(o)
struct LogisticError {
  static ErrorAndSlope of(Vec o, Vec y, Vec, Vec w) {
    const auto one = number(1), zero = number(0), wy = w * y;
    const auto e = o.abs().neg().exp();  // e^-|o|, which does not overflow
    const auto log_s = at::vec::minimum(o, zero) - e.log1p();
    const auto s = where(o >= zero, one / (one + e), e / (one + e));
    const auto slope = (wy + one - y) * where(o.isnan(), o, s) - wy;
    return {(one - y) * o - (one + (w - one) * y) * log_s, slope};
  }
};

BatchLoss::BatchLoss(const exact::Loss& loss, const at::Tensor& y, int64_t rows, int64_t columns)
    : kind_(loss.kind),
      y_(y.contiguous()),
      columns_(columns),
      ignore_index_(loss.ignore_index),
      p_(loss.p) {
  if (loss.weight.defined()) {
    weight_ = loss.weight.expand({columns}).contiguous();
    w_ = weight_.const_data_ptr<float>();
  }
  if (loss.pos_weight.defined()) {
    pos_weight_ = loss.pos_weight.expand({columns}).contiguous();
    positive_ = pos_weight_.const_data_ptr<float>();
  }
  const bool mean = loss.reduction == at::Reduction::Mean;
  if (y_.is_floating_point()) {
    values_ = y_.const_data_ptr<float>();
  } else {
    classes_ = y_.const_data_ptr<int64_t>();
    count_classes(mean, rows);
  }
  if (mean && values_) {
    count = static_cast<double>(kind_ == exact::Errors::cross_entropy ? rows : rows * columns);
    scale_ = static_cast<float>(1 / count);
  }
}

// count = sum of w_y over the rows that are not ignored
void BatchLoss::count_classes(bool mean, int64_t rows) {
  double total = 0;
  bool any = false;
  for (int64_t n = 0; n < rows; ++n) {
    const int64_t y = classes_[n];
    if (y == ignore_index_) continue;
    TORCH_CHECK_INDEX(y >= 0 && y < columns_, "Target ", y, " is out of bounds.");
    total += w_ ? w_[y] : 1;
    any = true;
  }
  if (!mean) return;
  count = total;
  scale_ = any ? static_cast<float>(1 / total) : 0;  // no sample counts: 0, not 0 / 0
}

double BatchLoss::of_rows(int64_t first, int64_t rows, const float* o, float* delta) const {
  switch (kind_) {
    case exact::Errors::mse:
      return elementwise<SquaredError>(first, rows, o, delta);
    case exact::Errors::l1:
      return elementwise<AbsoluteError>(first, rows, o, delta);
    case exact::Errors::huber:
      return elementwise<HuberError>(first, rows, o, delta);
    case exact::Errors::smooth_l1:
      return p_ > 0 ? elementwise<SmoothError>(first, rows, o, delta)
                    : elementwise<AbsoluteError>(first, rows, o, delta);
    case exact::Errors::bce:
      return elementwise<LogisticError>(first, rows, o, delta);
    case exact::Errors::cross_entropy:
      return cross_entropy(first, rows, o, delta);
  }
  TORCH_CHECK(false, "a loss that the tiles lack");
}

template <typename Error>
double BatchLoss::elementwise(int64_t first, int64_t rows, const float* o, float* delta) const {
  const float* y = values_ + first * columns_;
  const auto p = number(p_), scale = Vec(scale_), one = number(1);
  // Without weights all rows are one; with weights they go one by one.
  const int64_t parts = w_ || positive_ ? rows : 1, length = rows * columns_ / parts;
  Vec whole(0);
  double rest = 0;
  for (int64_t part = 0; part < parts; ++part) {
    const int64_t start = part * length;
    sweep(length, [&](int64_t i, int64_t n) {
      const auto positive = positive_ ? load(positive_ + i, n) : one;
      auto found = Error::of(load(o + start + i, n), load(y + start + i, n), p, positive);
      if (w_) {
        const auto w = load(w_ + i, n);
        found = {found.cost * w, found.slope * w};
      }
      if (n == Vec::size()) {
        whole = whole + found.cost;
      } else {
        rest += sum(found.cost, n);
      }
      if (delta) store(found.slope * scale, delta + start + i, n);
    });
  }
  return rest + sum(whole);
}

// With q the target's distribution, smoothed by e, and w the weights, of one row:
//     log p = o - log sum e^o
//     C = -sum_j w_j q_j log p_j,    dC/do_j = p_j sum_k w_k q_k - w_j q_j
// For a class index y without smoothing q is 1 at y alone. `most` is the largest o, which is
// subtracted first, so that e^o does not overflow.
double BatchLoss::cross_entropy(int64_t first, int64_t rows, const float* o, float* delta) const {
  const auto e = static_cast<float>(p_), even = e / static_cast<float>(columns_);
  double total = 0;
  for (int64_t n = 0; n < rows; ++n, o += columns_) {
    float most = -std::numeric_limits<float>::infinity(), exponentials = 0;
    for (int64_t j = 0; j < columns_; ++j) most = o[j] > most || std::isnan(o[j]) ? o[j] : most;
    sweep(columns_, [&](int64_t i, int64_t count) {
      exponentials += sum((load(o + i, count) - Vec(most)).exp(), count);
    });
    const float log_sum = std::log(exponentials);
    const auto log_p = [&](int64_t j) { return o[j] - most - log_sum; };
    const int64_t index = classes_ ? classes_[first + n] : 0;
    const bool ignored = classes_ && index == ignore_index_;
    const float* q = values_ ? values_ + (first + n) * columns_ : nullptr;
    const auto wq = [&](int64_t j) {
      const float target = q ? q[j] : static_cast<float>(j == index);
      return (w_ ? w_[j] : 1) * (e > 0 ? target * (1 - e) + even : target);
    };
    float weights = 0, cost = 0;
    if (classes_ && !(e > 0)) {
      weights = ignored ? 0 : wq(index);
      cost = ignored ? 0 : weights * log_p(index);
    } else if (!ignored) {
      for (int64_t j = 0; j < columns_; ++j) {
        weights += wq(j);
        cost += wq(j) * log_p(j);
      }
    }
    total -= cost;
    if (!delta) continue;
    sweep(columns_, [&](int64_t i, int64_t count) {
      const auto p = (load(o + i, count) - Vec(most) - Vec(log_sum)).exp();
      store(p * Vec(weights * scale_), delta + i, count);
    });
    if (classes_ && !(e > 0)) {
      if (!ignored) delta[index] -= weights * scale_;
    } else if (!ignored) {
      for (int64_t j = 0; j < columns_; ++j) delta[j] -= wq(j) * scale_;
    }
    delta += columns_;
  }
  return total;
}

}  // namespace manualbp
