#include "tiles/tile.h"

#include <algorithm>
#include <cmath>

#include "tiles/outer.h"
#include "tiles/product.h"

namespace manualbp {

// Rows of a tile. Longer ones pay for wide layers, whose dC/dW is read and written once a tile.
constexpr int64_t kRows = 64, kRowsOfWide = 256, kWide = 256;

void sum_rows(const float* values, int64_t rows, int64_t columns, double* total) {
  int64_t n = 0;
  for (; n + 4 <= rows; n += 4, values += 4 * columns) {
    const float *v0 = values, *v1 = v0 + columns, *v2 = v1 + columns, *v3 = v2 + columns;
    for (int64_t c = 0; c < columns; ++c) total[c] += (v0[c] + v1[c]) + (v2[c] + v3[c]);
  }
  for (; n < rows; ++n, values += columns) {
    for (int64_t c = 0; c < columns; ++c) total[c] += values[c];
  }
}

constexpr int64_t padded(int64_t n) { return (n + 15) / 16 * 16; }  // to whole cache lines

Weights::Weights(const Net& n, const std::vector<bool>& wants, bool goes_up)
    : net(n),
      layers(n.layers.size()),
      rows(n.tile_rows > 0      ? n.tile_rows
           : n.widest() > kWide ? kRowsOfWide
                                : kRows) {
  bool below = wants.back();
  held_.reserve(net.parameters.size() + 1);
  float* panels = nullptr;
  if (goes_up) {
    held_.push_back(floats({net.products()}));
    panels = held_.back().mutable_data_ptr<float>();
  }
  for (size_t l = 0; l < layers.size(); ++l) {
    const auto& layer = net.layers[l];
    auto& found = layers[l];
    const auto pointer = [&](int at) -> const float* {
      if (at < 0) return nullptr;
      held_.push_back(net.parameters[at].contiguous());
      return held_.back().const_data_ptr<float>();
    };
    found.weight = pointer(layer.weight);
    found.bias = pointer(layer.bias);
    found.f = activation(layer.f);
    found.wants_h = below;
    found.wants_weight = layer.weight >= 0 && wants[layer.weight];
    found.wants_bias = layer.bias >= 0 && wants[layer.bias];
    below = below || found.wants_weight || found.wants_bias;
    if (layer.kind == Layer::kLinear && goes_up) {
      pack(found.weight, layer.outputs, layer.inputs, panels);
      found.panels = panels;
      panels += layer.inputs * layer.outputs;
    }
  }
}

int64_t Tile::numbers(const Weights& by, bool trains) {
  int64_t found = 0;
  for (const auto& layer : by.net.layers)
    found += 2 * padded(by.rows * layer.outputs) + padded(by.rows);
  if (trains) found += 3 * padded(by.rows * by.net.widest());
  return found;
}

Tile::Tile(const Weights& by, bool trains, float* memory) : layers(by.layers.size()), by_(by) {
  const auto take = [&](int64_t count) {
    float* found = memory;
    memory += padded(count);
    return found;
  };
  for (size_t l = 0; l < layers.size(); ++l) {
    const auto& layer = by.net.layers[l];
    layers[l].a = take(by.rows * layer.outputs);
    const bool norm = layer.kind == Layer::kLayerNorm;
    const bool separate = norm || !by.layers[l].f->keeps_a;
    layers[l].kept = !separate ? layers[l].a : trains ? take(by.rows * layer.outputs) : nullptr;
    if (norm) layers[l].r = take(by.rows);
  }
  if (!trains) return;
  const int64_t largest = by.rows * by.net.widest();
  delta_[0] = take(largest);
  delta_[1] = take(largest);
  turned_ = take(largest);
}

float* Tile::up(const float* x, int64_t rows) {
  const float* h = x;
  for (size_t l = 0; l < layers.size(); ++l) {
    const auto& layer = by_.net.layers[l];
    const auto& of = by_.layers[l];
    float* a = layers[l].a;
    const int64_t count = rows * layer.outputs;
    if (layer.kind == Layer::kLayerNorm) {
      norm_up(layer, l, h, rows);
    } else {
      if (layer.kind == Layer::kLinear) {
        for (int64_t n = 0; n < rows; ++n) {  // b first: the products are added to it
          float* row = a + n * layer.outputs;
          if (of.bias) {
            std::copy(of.bias, of.bias + layer.outputs, row);
          } else {
            std::fill(row, row + layer.outputs, float(0));
          }
        }
        product_of_panels(rows, layer.outputs, layer.inputs, h, of.panels, a, true);
      } else {
        std::copy(h, h + count, a);
      }
      if (layer.f != "identity") of.f->up(a, layers[l].kept, count, layer.p, layer.q);
    }
    h = a;
  }
  return layers.back().a;
}

void Tile::down(const float* x, int64_t rows, const Into& into, float* grad_x) {
  float *delta = delta_[0], *other = delta_[1];
  for (size_t l = layers.size(); l-- > 0;) {
    const auto& layer = by_.net.layers[l];
    const auto& of = by_.layers[l];
    if (!of.wants()) return;  // nor does anything below
    const float* h = l == 0 ? x : layers[l - 1].a;
    float* below = l == 0 ? grad_x : other;
    const int64_t O = layer.outputs, I = layer.inputs;
    if (layer.kind == Layer::kLayerNorm) {
      norm_down(layer, l, delta, rows, into, of.wants_h ? below : nullptr);
    } else {
      if (layer.f != "identity") {
        of.f->down(delta, layers[l].kept, rows * O, layer.p, layer.q);
      }
      if (of.wants_bias) sum_rows(delta, rows, O, into.vectors[layer.bias]);
      if (of.wants_weight) {
        outer_products(rows, O, I, delta, h, turned_, into.matrices[layer.weight], !into.first);
      }
      if (of.wants_h) {
        if (layer.kind == Layer::kLinear) {
          product(rows, I, O, delta, O, of.weight, I, below, I, false);
        } else {
          std::copy(delta, delta + rows * O, below);
        }
      }
    }
    std::swap(delta, other);
  }
}

// xhat = (h - mu) r,  r = 1 / sqrt(var + eps),  a = xhat gamma + beta
void Tile::norm_up(const Layer& layer, size_t l, const float* h, int64_t rows) {
  const auto& of = by_.layers[l];
  const int64_t C = layer.outputs;
  for (int64_t n = 0; n < rows; ++n, h += C) {
    double mean = 0, square = 0;
    for (int64_t c = 0; c < C; ++c) mean += h[c];
    mean /= C;
    for (int64_t c = 0; c < C; ++c) square += (h[c] - mean) * (h[c] - mean);
    const float r = static_cast<float>(1 / std::sqrt(square / C + layer.eps));
    layers[l].r[n] = r;
    float *a = layers[l].a + n * C, *xhat = layers[l].kept ? layers[l].kept + n * C : nullptr;
    for (int64_t c = 0; c < C; ++c) {
      const float found = static_cast<float>(h[c] - mean) * r;
      if (xhat) xhat[c] = found;
      a[c] = found * (of.weight ? of.weight[c] : float(1)) + (of.bias ? of.bias[c] : float(0));
    }
  }
}

// dC/dgamma = sum delta xhat,  dC/dbeta = sum delta,
// dC/dh = r (g - mean g - xhat mean(g xhat)),  g = delta gamma
void Tile::norm_down(const Layer& layer, size_t l, float* delta, int64_t rows, const Into& into,
                     float* below) {
  const auto& of = by_.layers[l];
  const int64_t C = layer.outputs;
  const float* xhat = layers[l].kept;
  if (of.wants_bias) sum_rows(delta, rows, C, into.vectors[layer.bias]);
  if (of.wants_weight) {
    for (int64_t i = 0; i < rows * C; ++i) turned_[i] = delta[i] * xhat[i];
    sum_rows(turned_, rows, C, into.vectors[layer.weight]);
  }
  if (!below) return;
  for (int64_t n = 0; n < rows; ++n) {
    const float *d = delta + n * C, *x = xhat + n * C;
    const auto g = [&](int64_t c) { return of.weight ? d[c] * of.weight[c] : d[c]; };
    double mean = 0, along = 0;
    for (int64_t c = 0; c < C; ++c) {
      mean += g(c);
      along += static_cast<double>(g(c)) * x[c];
    }
    const float m = static_cast<float>(mean / C), s = static_cast<float>(along / C);
    for (int64_t c = 0; c < C; ++c) below[n * C + c] = layers[l].r[n] * (g(c) - m - x[c] * s);
  }
}

}  // namespace manualbp
