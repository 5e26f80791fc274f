// Passes over all tiles of a batch. Gradients are summed tile by tile, in a fixed order.
#pragma once
#include <optional>
#include <vector>

#include "tiles/losses.h"
#include "tiles/net.h"

namespace manualbp {

// The parameters' gradients and dC/dx, undefined where not wanted; wants has one for each
// parameter, then one for x.
struct Gradients {
  std::vector<at::Tensor> parameters;
  at::Tensor x;
};

bool any(const std::vector<bool>& wants);

// What a pass up keeps for one down: a, and what f' is computed from, of each layer. Empty where
// the pass down computes them again.
using KeptTensors = std::vector<at::Tensor>;

// o of x (N, I); what is kept goes to `kept` unless that is nullptr.
at::Tensor pass_up(const Net& net, const at::Tensor& x, KeptTensors* kept);

// The gradients from delta = dC/do.
Gradients pass_down(const Net& net, const at::Tensor& x, const at::Tensor& delta,
                    const KeptTensors& kept, const std::vector<bool>& wants);

// C(o, y) and its gradients in one pass.
at::Tensor pass_both(const Net& net, const exact::Loss& loss, const at::Tensor& x,
                     const at::Tensor& y, const std::vector<bool>& wants, Gradients& found);

}  // namespace manualbp
