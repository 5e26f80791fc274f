// Passes over all points with gradient_tile.h, tile by tile, each thread with tiles of its own.
#pragma once
#include "taylor/jet_passes.h"

namespace manualbp {

// u (N, O) and du (N, O, I).
Derived gradient_up(const Net& net, const at::Tensor& x, bool keeps, KeptJets& kept);

// From their gradients, undefined for zeros.
Gradients gradient_down(const Net& net, const at::Tensor& x, const Derived& grads,
                        const KeptJets& kept, const std::vector<bool>& wants);

}  // namespace manualbp
