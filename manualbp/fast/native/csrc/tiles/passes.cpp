#include "tiles/passes.h"

#include <ATen/ops/scalar_tensor.h>

#include <algorithm>

#include "tiles/over_tiles.h"

namespace manualbp {

namespace {

Split split_of(const Weights& by, int64_t rows, const Accumulated& sums) {
  const int64_t work = 3 * rows * std::max<int64_t>(by.net.products(), 1);
  return split(rows, by.rows, by.net.tile_rows > 0, work, sums.numbers());
}

template <typename Body>
double over_tiles(const Weights& by, Accumulated& sums, int64_t rows, bool trains, Body body) {
  const auto make = [&](float* memory) { return Tile(by, trains, memory); };
  return over_tiles(split_of(by, rows, sums), sums, Tile::numbers(by, trains), make, body);
}

}  // namespace

bool any(const std::vector<bool>& wants) {
  return std::find(wants.begin(), wants.end(), true) != wants.end();
}

at::Tensor pass_up(const Net& net, const at::Tensor& x, KeptTensors* kept) {
  const std::vector<bool> nothing(net.parameters.size() + 1, false);
  const Weights by(net, nothing, true);
  const int64_t N = x.size(0);
  auto o = floats({N, net.layers.back().outputs});
  const size_t depth = net.layers.size();
  std::vector<Kept> whole(depth);  // where the first row's go
  for (size_t l = 0; l < depth; ++l) {
    const auto& layer = net.layers[l];
    const auto take = [&](std::initializer_list<int64_t> shape) {
      kept->push_back(floats(shape));
      return kept->back().mutable_data_ptr<float>();
    };
    if (l + 1 == depth) whole[l].a = o.mutable_data_ptr<float>();
    if (!kept) continue;
    if (l + 1 < depth) whole[l].a = take({N, layer.outputs});
    const bool norm = layer.kind == Layer::kLayerNorm;
    const bool separate = norm || !by.layers[l].f->keeps_a;
    whole[l].kept = separate ? take({N, layer.outputs}) : whole[l].a;
    if (norm) whole[l].r = take({N});
  }
  Accumulated nothing_summed(net, nothing, x);
  const float* data = x.const_data_ptr<float>();
  over_tiles(by, nothing_summed, N, false, [&](Tile& tile, int64_t row, int64_t rows, auto...) {
    for (size_t l = 0; l < depth; ++l) {
      const int64_t at = row * net.layers[l].outputs;
      if (whole[l].a) tile.layers[l].a = whole[l].a + at;
      if (whole[l].kept) tile.layers[l].kept = whole[l].kept + at;
      if (whole[l].r) tile.layers[l].r = whole[l].r + row;
    }
    tile.up(data + row * x.size(1), rows);
    return 0.0;
  });
  return o;
}

Gradients pass_down(const Net& net, const at::Tensor& x, const at::Tensor& delta,
                    const KeptTensors& kept, const std::vector<bool>& wants) {
  const Weights by(net, wants, kept.empty());
  Accumulated sums(net, wants, x);
  const int64_t N = x.size(0), I = x.size(1), O = net.layers.back().outputs;
  const size_t depth = net.layers.size();
  std::vector<Kept> whole(depth);
  size_t next = 0;
  for (size_t l = 0; l < depth && !kept.empty(); ++l) {  // as `up` laid them out; o comes last
    const bool norm = net.layers[l].kind == Layer::kLayerNorm;
    const auto take = [&](const at::Tensor& t) {
      return const_cast<float*>(t.const_data_ptr<float>());
    };
    whole[l].a = take(l + 1 < depth ? kept[next++] : kept.back());
    whole[l].kept = norm || !by.layers[l].f->keeps_a ? take(kept[next++]) : whole[l].a;
    if (norm) whole[l].r = take(kept[next++]);
  }
  const float *data = x.const_data_ptr<float>(), *from = delta.const_data_ptr<float>();
  float* grad_x = sums.found.x.defined() ? sums.found.x.mutable_data_ptr<float>() : nullptr;
  over_tiles(by, sums, N, true, [&](Tile& tile, int64_t row, int64_t rows, const Into& into) {
    if (kept.empty()) {
      tile.up(data + row * I, rows);
    } else {
      for (size_t l = 0; l < depth; ++l) {
        const int64_t at = row * net.layers[l].outputs;
        tile.layers[l] = {whole[l].a + at, whole[l].kept + at,
                          whole[l].r ? whole[l].r + row : nullptr};
      }
    }
    std::copy(from + row * O, from + (row + rows) * O, tile.delta());
    tile.down(data + row * I, rows, into, grad_x ? grad_x + row * I : nullptr);
    return 0.0;
  });
  return sums.found;
}

at::Tensor pass_both(const Net& net, const exact::Loss& loss, const at::Tensor& x,
                     const at::Tensor& y, const std::vector<bool>& wants, Gradients& found) {
  const bool trains = any(wants);
  const Weights by(net, wants, true);
  const int64_t N = x.size(0), I = x.size(1);
  const BatchLoss errors(loss, y, N, net.layers.back().outputs);
  Accumulated sums(net, wants, x);
  const float* data = x.const_data_ptr<float>();
  float* grad_x = sums.found.x.defined() ? sums.found.x.mutable_data_ptr<float>() : nullptr;
  const double cost =
      over_tiles(by, sums, N, trains, [&](Tile& tile, int64_t row, int64_t rows, const Into& into) {
        const float* o = tile.up(data + row * I, rows);
        const double c = errors.of_rows(row, rows, o, trains ? tile.delta() : nullptr);
        if (trains) {
          tile.down(data + row * I, rows, into, grad_x ? grad_x + row * I : nullptr);
        }
        return c;
      });
  found = std::move(sums.found);
  return at::scalar_tensor(cost / errors.count, x.options());
}

}  // namespace manualbp
