// Passes over all points, tile by tile, each thread with tiles of its own.
#pragma once
#include "taylor/jet_tile.h"
#include "tiles/passes.h"

namespace manualbp {

// u (N, O), du (N, O, K), and the columns of second derivatives (N, O, ...). Or their gradients,
// undefined for zeros.
using Derived = std::vector<at::Tensor>;

// What a pass up leaves for one down: what each layer's `down` reads, tile by tile, and how many
// points a tile has. Without z the pass down computes them again.
struct KeptJets {
  // Memory for N points, of which layer l keeps numbers[l] each.
  void take(const std::vector<int64_t>& numbers, int64_t N);
  // Sets each layer's pointer to the numbers from a row on, where they are kept.
  void point(std::vector<float*>& layers, const std::vector<int64_t>& numbers, int64_t row,
             int64_t N) const;

  at::Tensor z;  // layer after layer, each from the first point to the last
  int64_t points = 0;
};

Derived jets_up(const Net& net, const Order& order, const at::Tensor& lines, const at::Tensor& x,
                bool keeps, KeptJets& kept);

Gradients jets_down(const Net& net, const Order& order, const at::Tensor& lines,
                    const at::Tensor& x, const Derived& grads, const KeptJets& kept,
                    const std::vector<bool>& wants);

}  // namespace manualbp
