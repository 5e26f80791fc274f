#include "taylor/gradient_passes.h"

#include <algorithm>

#include "taylor/gradient_tile.h"
#include "tiles/over_tiles.h"

namespace manualbp {

namespace {

Split split_of(const Net& net, int64_t rows, int64_t points, int64_t numbers) {
  const int64_t tile = points ? points : GradientTile::points(net), O = net.layers.back().outputs;
  const int64_t work = (3 + 3 * O) * rows * std::max<int64_t>(net.products(), 1);
  return split(rows, tile, points > 0, work, numbers, 1 + O);
}

}  // namespace

Derived gradient_up(const Net& net, const at::Tensor& x, bool keeps, KeptJets& kept) {
  const std::vector<bool> nothing(net.parameters.size() + 1, false);
  const Weights by(net, nothing, true);
  const int64_t N = x.size(0), I = x.size(1), O = net.layers.back().outputs;
  Derived found{floats({N, O}), floats({N, O, I})};
  float *u = found[0].mutable_data_ptr<float>(), *du = found[1].mutable_data_ptr<float>();
  const auto numbers_of_layer = GradientTile::numbers_of_layer(net);
  if (keeps) kept.take(numbers_of_layer, N);
  Accumulated nothing_summed(net, nothing, x);
  const Split s = split_of(net, N, 0, 0);
  kept.points = s.tile;
  const float* data = x.const_data_ptr<float>();
  const auto make = [&](float* memory) { return GradientTile(by, s.tile, !keeps, false, memory); };
  const auto body = [&](GradientTile& tile, int64_t row, int64_t rows, auto&) {
    kept.point(tile.layers, numbers_of_layer, row, N);
    const float* o = tile.up(data + row * I, rows, true);
    std::copy(o, o + rows * O, u + row * O);
    for (int64_t o = 0; o < O; ++o) {
      const float* from = tile.du + o * rows * I;
      for (int64_t n = 0; n < rows; ++n)
        std::copy(from + n * I, from + (n + 1) * I, du + ((row + n) * O + o) * I);
    }
    return 0.0;
  };
  over_tiles(s, nothing_summed, GradientTile::numbers(by, s.tile, !keeps, false), make, body);
  return found;
}

Gradients gradient_down(const Net& net, const at::Tensor& x, const Derived& grads,
                        const KeptJets& kept, const std::vector<bool>& wants) {
  const bool again = !kept.z.defined();
  const auto numbers_of_layer = GradientTile::numbers_of_layer(net);
  const Weights by(net, wants, true);
  Accumulated sums(net, wants, x);
  const int64_t N = x.size(0), I = x.size(1), O = net.layers.back().outputs;
  const float* g = grads[0].defined() ? grads[0].const_data_ptr<float>() : nullptr;
  const float* v = grads[1].defined() ? grads[1].const_data_ptr<float>() : nullptr;
  const float* data = x.const_data_ptr<float>();
  float* grad_x = sums.found.x.defined() ? sums.found.x.mutable_data_ptr<float>() : nullptr;
  const Split s = split_of(net, N, kept.points, sums.numbers());
  const auto make = [&](float* memory) { return GradientTile(by, s.tile, again, true, memory); };
  const auto body = [&](GradientTile& tile, int64_t row, int64_t rows, const Into& into) {
    kept.point(tile.layers, numbers_of_layer, row, N);
    if (again) tile.up(data + row * I, rows, false);
    for (int64_t o = 0; o < O && v; ++o) {
      float* to = tile.du + o * rows * I;
      for (int64_t n = 0; n < rows; ++n) {
        const float* from = v + ((row + n) * O + o) * I;
        std::copy(from, from + I, to + n * I);
      }
    }
    if (g) {
      std::copy(g + row * O, g + (row + rows) * O, tile.delta());
    } else {
      std::fill(tile.delta(), tile.delta() + rows * O, float(0));
    }
    tile.down(data + row * I, rows, v, into, grad_x ? grad_x + row * I : nullptr);
    return 0.0;
  };
  over_tiles(s, sums, GradientTile::numbers(by, s.tile, again, true), make, body);
  return sums.found;
}

}  // namespace manualbp
