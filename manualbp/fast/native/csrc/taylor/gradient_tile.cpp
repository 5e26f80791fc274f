#include "taylor/gradient_tile.h"

#include <algorithm>

#include "taylor/memory.h"
#include "tiles/outer.h"
#include "tiles/product.h"

namespace manualbp {

static int64_t depth(const Weights& by) { return static_cast<int64_t>(by.net.layers.size()); }

std::vector<int64_t> GradientTile::numbers_of_layer(const Net& net) {
  std::vector<int64_t> found;
  for (const auto& layer : net.layers)
    found.push_back((1 + net.layers.back().outputs) * layer.outputs);
  return found;
}

int64_t GradientTile::points(const Net& net) {
  int64_t numbers = 6 * net.widest() + net.layers.back().outputs * net.features;
  for (const auto& layer : net.layers) numbers += (2 + net.layers.back().outputs) * layer.outputs;
  return points_in_cache(numbers, 1);
}

int64_t GradientTile::numbers(const Weights& by, int64_t points, bool own, bool trains) {
  const int64_t outputs = by.net.layers.back().outputs;
  int64_t found =
      2 * aligned(points * by.net.widest()) + aligned(outputs * points * by.net.features);
  for (const int64_t each : numbers_of_layer(by.net)) found += own ? aligned(points * each) : 0;
  if (!trains) return found;
  for (const auto& layer : by.net.layers) found += aligned(points * layer.outputs);
  return found + 5 * aligned(points * by.net.widest());
}

GradientTile::GradientTile(const Weights& by, int64_t points, bool own, bool trains, float* memory)
    : by_(by) {
  for (const auto& layer : by.net.layers) {
    values_.push_back(jet_activation(layer.f, none_));
    f_.push_back(gradient_activation(layer.f));
  }
  Memory take(memory);
  const int64_t outputs = by.net.layers.back().outputs, largest = points * by.net.widest();
  h_ = take(largest);
  e_ = take(largest);
  du = take(outputs * points * by.net.features);
  for (const int64_t each : numbers_of_layer(by.net))
    layers.push_back(own ? take(points * each) : nullptr);
  if (!trains) return;
  for (float** each : {&v_[0], &v_[1], &delta_[0], &delta_[1], &turned_}) *each = take(largest);
  for (const auto& layer : by.net.layers) brought_.push_back(take(points * layer.outputs));
}

const float* GradientTile::up(const float* x, int64_t count, bool wants_du) {
  const float* h = x;
  for (int64_t l = 0; l < depth(by_); ++l) {
    const auto& layer = by_.net.layers[l];
    const auto& of = by_.layers[l];
    const int64_t n = count * layer.outputs;
    float* z = layers[l];
    if (layer.kind == Layer::kLinear) {
      biases(of.bias, count, count, layer.outputs, z);
      product_of_panels(count, layer.outputs, layer.inputs, h, of.panels, z, true);
    } else {
      std::copy(h, h + n, z);
    }
    h = z;
    if (layer.f != "identity") {
      values_[l].up(Jets{n, none_, false}, z, h_, layer.p, layer.q);
      h = h_;
    }
  }
  const int64_t O = by_.net.layers.back().outputs;
  for (int64_t o = 0; o < O; ++o) {
    float* top = const_cast<float*>(d(depth(by_) - 1, o, count));
    std::fill(top, top + count * O, float(0));
    for (int64_t n = 0; n < count; ++n) top[n * O + o] = 1;
    for (int64_t l = depth(by_); l-- > 0;) {
      const auto& layer = by_.net.layers[l];
      const int64_t n = count * layer.outputs;
      const float* e = d(l, o, count);
      float* below = l > 0      ? const_cast<float*>(d(l - 1, o, count))
                     : wants_du ? du + o * count * layer.inputs
                                : nullptr;
      if (!below) break;
      if (layer.f != "identity") {
        f_[l].slope(layers[l], e, e_, n, layer.p, layer.q);
        e = e_;
      }
      if (layer.kind == Layer::kLinear) {
        product(count, layer.inputs, layer.outputs, e, layer.outputs, by_.layers[l].weight,
                layer.inputs, below, layer.inputs, false);
      } else {
        std::copy(e, e + n, below);
      }
    }
  }
  return h;
}

// The way up of one output's v.
void GradientTile::tangents(int64_t count, int64_t output, const Into& into) {
  const float* v = du + output * count * by_.net.features;
  float *above = v_[0], *other = v_[1];
  for (int64_t l = 0; l < depth(by_); ++l) {
    const auto& layer = by_.net.layers[l];
    const auto& of = by_.layers[l];
    const int64_t O = layer.outputs, I = layer.inputs, n = count * O;
    if (layer.kind == Layer::kLinear) {
      product_of_panels(count, O, I, v, of.panels, above, false);
    } else {
      std::copy(v, v + n, above);
    }
    const float* e = d(l, output, count);
    if (layer.f != "identity") {
      f_[l].tangent(layers[l], e, above, e_, brought_[l], n, layer.p, layer.q);
      e = e_;
    }
    if (of.wants_weight) {
      const bool add = output > 0 || !into.first;
      outer_products(count, O, I, e, v, turned_, into.matrices[layer.weight], add);
    }
    v = above;
    std::swap(above, other);
  }
}

// The activation of layer l on the way down: g in place, and a. Either may not be wanted.
const float* GradientTile::lower(size_t l, int64_t count, float* g, bool brought, bool wants_a) {
  const auto& layer = by_.net.layers[l];
  if (layer.f == "identity") return layers[l];
  f_[l].down(layers[l], g, brought ? brought_[l] : nullptr, wants_a ? h_ : nullptr,
             count * layer.outputs, layer.p, layer.q);
  return h_;
}

void GradientTile::down(const float* x, int64_t count, bool reads_du, Into into, float* grad_x) {
  for (int64_t l = 0; l < depth(by_) && reads_du; ++l) {
    const int64_t n = count * by_.net.layers[l].outputs;
    std::fill(brought_[l], brought_[l] + n, float(0));
  }
  const int64_t outputs = by_.net.layers.back().outputs;
  for (int64_t o = 0; o < outputs && reads_du; ++o) tangents(count, o, into);
  if (reads_du) into.first = false;
  float *g = delta_[0], *below = delta_[1];
  lower(depth(by_) - 1, count, g, reads_du, false);
  for (int64_t l = depth(by_); l-- > 0;) {
    const auto& layer = by_.net.layers[l];
    const auto& of = by_.layers[l];
    if (!of.wants()) return;  // nor does anything below
    const int64_t O = layer.outputs, I = layer.inputs;
    if (layer.kind != Layer::kLinear) {
      if (l > 0) lower(l - 1, count, g, reads_du, false);
      if (l == 0 && grad_x) std::copy(g, g + count * I, grad_x);
      continue;
    }
    if (of.wants_bias) sum_rows(g, count, O, into.vectors[layer.bias]);
    float* to = l > 0 ? below : grad_x;
    if (of.wants_h && to) product(count, I, O, g, O, of.weight, I, to, I, false);
    const float* h = x;
    if (l > 0) h = lower(l - 1, count, of.wants_h ? below : nullptr, reads_du, of.wants_weight);
    if (of.wants_weight)
      outer_products(count, O, I, g, h, turned_, into.matrices[layer.weight], !into.first);
    std::swap(g, below);
  }
}

}  // namespace manualbp
