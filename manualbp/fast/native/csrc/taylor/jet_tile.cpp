#include "taylor/jet_tile.h"

#include <algorithm>

#include "taylor/memory.h"
#include "tiles/outer.h"
#include "tiles/product.h"

namespace manualbp {

static bool smooth(const Layer& layer) { return layer.f != "identity"; }

JetNet::JetNet(const Weights& weights, const Order& o, const at::Tensor& v)
    : by(weights), order(o), shared(v.dim() == 2), curved(1, false), lines(v.contiguous()) {
  for (const auto& layer : by.net.layers) {
    curved.push_back(curved.back() || smooth(layer));
    f.push_back(jet_activation(layer.f, order));
  }
  const auto& first = by.net.layers[0];
  if (shared && by.layers[0].panels) {
    const int64_t K = order.lines, O = first.outputs;
    slopes = floats({K, O});
    product_of_panels(K, O, first.inputs, lines.const_data_ptr<float>(), by.layers[0].panels,
                      slopes.mutable_data_ptr<float>(), false);
  }
}

std::vector<int64_t> JetNet::numbers_of_z() const {
  std::vector<int64_t> found;
  for (size_t l = 0; l < by.net.layers.size(); ++l)
    found.push_back(rows_of_z(l) * by.net.layers[l].outputs);
  return found;
}

int64_t JetNet::points() const {
  int64_t numbers = 4 * order.rows() * by.net.widest();
  for (const int64_t each : numbers_of_z()) numbers += each;
  return points_in_cache(numbers, order.rows());
}

int64_t JetNet::work() const { return 3 * order.rows() * std::max<int64_t>(by.net.products(), 1); }

int64_t JetTile::numbers(const JetNet& net, int64_t points, bool own, bool trains) {
  const int64_t rows = net.order.rows() * points;
  int64_t found =
      aligned(rows * net.by.net.widest()) + aligned((rows + net.order.lines) * net.by.net.features);
  for (const int64_t each : net.numbers_of_z()) found += own ? aligned(points * each) : 0;
  if (trains) found += 3 * aligned((rows + net.order.lines) * net.by.net.widest());
  return found;
}

JetTile::JetTile(const JetNet& net, int64_t points, bool own, bool trains, float* memory)
    : net_(net) {
  Memory take(memory);
  const int64_t rows = net.order.rows() * points, more = rows + net.order.lines;
  h_ = take(rows * net.by.net.widest());
  inputs_ = take(more * net.by.net.features);
  for (const int64_t each : net.numbers_of_z()) z.push_back(own ? take(points * each) : nullptr);
  if (!trains) return;
  delta_[0] = take(more * net.by.net.widest());
  delta_[1] = take(more * net.by.net.widest());
  turned_ = take(more * net.by.net.widest());
}

const float* JetTile::up(const float* x, int64_t at, int64_t count, bool to_the_end) {
  const auto& layers = net_.by.net.layers;
  const float* h = nullptr;
  for (size_t l = 0; l < layers.size(); ++l) {
    const auto& layer = layers[l];
    const auto& of = net_.by.layers[l];
    if (l + 1 == layers.size() && !to_the_end && !smooth(layer)) return nullptr;
    const int64_t O = layer.outputs, rows = net_.rows_of_z(l) * count;
    if (l == 0) {
      start(layer, x, at, count);
    } else if (layer.kind == Layer::kLinear) {
      biases(of.bias, count, count, O, z[l]);
      product_of_panels(count, O, layer.inputs, h, of.panels, z[l], true);
      product_of_panels(rows - count, O, layer.inputs, h + count * layer.inputs, of.panels,
                        z[l] + count * O, false);
    } else {
      std::copy(h, h + rows * O, z[l]);
    }
    h = z[l];
    if (smooth(layer)) {
      const Jets jets{count * O, net_.order, net_.curved[l]};
      net_.f[l].up(jets, z[l], h_, layer.p, layer.q);
      h = h_;
    }
  }
  return h;
}

// x and the lines, as rows: each point's lines, or with `each` false the K that all share.
// Returns how many rows.
int64_t JetTile::inputs(const float* x, int64_t at, int64_t count, bool each) {
  const int64_t I = net_.by.net.features, K = net_.order.lines;
  const float* lines = net_.lines.const_data_ptr<float>();
  float* to = std::copy(x, x + count * I, inputs_);
  if (!each) {
    std::copy(lines, lines + K * I, to);
    return count + K;
  }
  for (int64_t k = 0; k < K; ++k) {
    for (int64_t n = 0; n < count; ++n) {
      const float* line = lines + (net_.shared ? k : (at + n) * K + k) * I;
      to = std::copy(line, line + I, to);
    }
  }
  return (1 + K) * count;
}

// z of the first layer, and each z'_k.
void JetTile::start(const Layer& layer, const float* x, int64_t at, int64_t count) {
  const auto& of = net_.by.layers[0];
  const int64_t O = layer.outputs, I = layer.inputs, K = net_.order.lines;
  if (layer.kind != Layer::kLinear) {
    const int64_t rows = inputs(x, at, count, true);
    std::copy(inputs_, inputs_ + rows * I, z[0]);
    return;
  }
  biases(of.bias, count, net_.shared ? count : (1 + K) * count, O, z[0]);
  if (!net_.shared) {
    product_of_panels(inputs(x, at, count, true), O, I, inputs_, of.panels, z[0], true);
    return;
  }
  product_of_panels(count, O, I, x, of.panels, z[0], true);
  const float* slopes = net_.slopes.const_data_ptr<float>();
  for (int64_t k = 0; k < K; ++k) {
    for (int64_t n = 0; n < count; ++n)
      std::copy(slopes + k * O, slopes + (k + 1) * O, z[0] + ((1 + k) * count + n) * O);
  }
}

const float* JetTile::lower(size_t l, int64_t count, float* g, bool wants_a) {
  const auto& layer = net_.by.net.layers[l];
  if (!smooth(layer)) return z[l];
  const Jets jets{count * layer.outputs, net_.order, net_.curved[l]};
  net_.f[l].down(jets, z[l], g, wants_a ? h_ : nullptr, layer.p, layer.q);
  return h_;
}

void JetTile::down(const float* x, int64_t at, int64_t count, const Into& into, float* grad_x) {
  const auto& layers = net_.by.net.layers;
  float *g = delta_[0], *below = delta_[1];
  lower(layers.size() - 1, count, g, false);
  for (size_t l = layers.size() - 1; l > 0; --l) {
    const auto& layer = layers[l];
    const auto& of = net_.by.layers[l];
    if (!of.wants()) return;  // nor does anything below
    const int64_t O = layer.outputs, I = layer.inputs, rows = net_.rows_of_z(l) * count;
    if (layer.kind != Layer::kLinear) {
      lower(l - 1, count, g, false);
      continue;
    }
    if (of.wants_bias) sum_rows(g, count, O, into.vectors[layer.bias]);
    if (of.wants_h) product(rows, I, O, g, O, of.weight, I, below, I, false);
    const float* h = lower(l - 1, count, of.wants_h ? below : nullptr, of.wants_weight);
    if (of.wants_weight)
      outer_products(rows, O, I, g, h, turned_, into.matrices[layer.weight], !into.first);
    std::swap(g, below);
  }
  first_down(g, x, at, count, into, grad_x);
}

void JetTile::first_down(float* g, const float* x, int64_t at, int64_t count, const Into& into,
                         float* grad_x) {
  const auto& layer = net_.by.net.layers[0];
  const auto& of = net_.by.layers[0];
  const int64_t O = layer.outputs, I = layer.inputs, K = net_.order.lines;
  if (layer.kind != Layer::kLinear) {
    if (grad_x) std::copy(g, g + count * I, grad_x);
    return;
  }
  if (of.wants_bias) sum_rows(g, count, O, into.vectors[layer.bias]);
  if (of.wants_h && grad_x) product(count, I, O, g, O, of.weight, I, grad_x, I, false);
  if (!of.wants_weight) return;
  const int64_t rows = inputs(x, at, count, !net_.shared);
  for (int64_t k = 0; k < K && net_.shared; ++k) {  // the same v_k through all points
    float* sum = turned_ + k * O;
    std::fill(sum, sum + O, float(0));
    for (int64_t n = 0; n < count; ++n) {
      const float* each = g + ((1 + k) * count + n) * O;
      for (int64_t o = 0; o < O; ++o) sum[o] += each[o];
    }
  }
  if (net_.shared) std::copy(turned_, turned_ + K * O, g + count * O);
  outer_products(rows, O, I, g, inputs_, turned_, into.matrices[layer.weight], !into.first);
}

}  // namespace manualbp
