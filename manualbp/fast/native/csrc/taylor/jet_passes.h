// Passes over all points, tile by tile, each thread with tiles of its own.
#pragma once
#include "taylor/jet_tile.h"
#include "tiles/passes.h"

namespace manualbp {

// u (N, O), du (N, O, K), and the second derivatives of the order: (N, O), (N, O, K) or
// (N, O, K, K). Or their gradients, undefined for zeros.
using Derived = std::vector<at::Tensor>;

// What a pass up leaves for one down: z of each layer, and how many points a tile has. Without
// tensors the pass down computes them again.
struct KeptJets {
  KeptTensors z;
  int64_t points = 0;
};

Derived jets_up(const Net& net, const std::string& second, const at::Tensor& lines,
                const at::Tensor& x, bool keeps, KeptJets& kept);

Gradients jets_down(const Net& net, const std::string& second, const at::Tensor& lines,
                    const at::Tensor& x, const Derived& grads, const KeptJets& kept,
                    const std::vector<bool>& wants);

}  // namespace manualbp
