#include "taylor/jet_passes.h"

#include <algorithm>
#include <numeric>

#include "tiles/over_tiles.h"

namespace manualbp {

namespace {

// visit(part, place of its rows in the jet, column, columns) for all that is returned: u, each
// column of du and each of the second derivatives.
template <typename Visit>
void of_columns(const Order& order, Visit visit) {
  const auto K = order.lines, C = static_cast<int64_t>(order.columns.size());
  visit(0, 0, 0, 1);
  for (int64_t k = 0; k < K; ++k) visit(1, 1 + k, k, K);
  for (int64_t c = 0; c < C; ++c) visit(2, 1 + K + order.columns[c], c, C);
}

Split split_of(const JetNet& net, int64_t rows, int64_t points, int64_t numbers) {
  const int64_t tile = points ? points : net.points();
  return split(rows, tile, points > 0, rows * net.work(), numbers, net.order.rows());
}

}  // namespace

void KeptJets::take(const std::vector<int64_t>& numbers, int64_t N) {
  z = floats({N * std::accumulate(numbers.begin(), numbers.end(), int64_t(0))});
}

void KeptJets::point(std::vector<float*>& layers, const std::vector<int64_t>& numbers, int64_t row,
                     int64_t N) const {
  if (!z.defined()) return;
  float* layer = const_cast<float*>(z.const_data_ptr<float>());
  for (size_t l = 0; l < numbers.size(); ++l) {
    layers[l] = layer + row * numbers[l];
    layer += N * numbers[l];
  }
}

Derived jets_up(const Net& net, const Order& order, const at::Tensor& lines, const at::Tensor& x,
                bool keeps, KeptJets& kept) {
  const std::vector<bool> nothing(net.parameters.size() + 1, false);
  const Weights by(net, nothing, true);
  const JetNet jets(by, order, lines);
  const int64_t N = x.size(0), I = x.size(1), O = net.layers.back().outputs, K = order.lines;
  Derived found{floats({N, O}), floats({N, O, K})};
  if (order.seconds() > 0) {
    std::vector<int64_t> shape{N, O};
    shape.insert(shape.end(), order.shape.begin(), order.shape.end());
    found.push_back(floats(shape));
  }
  std::vector<float*> to;
  for (auto& each : found) to.push_back(each.mutable_data_ptr<float>());
  const auto numbers_of_z = jets.numbers_of_z();
  if (keeps) kept.take(numbers_of_z, N);
  Accumulated nothing_summed(net, nothing, x);
  const Split s = split_of(jets, N, 0, 0);
  kept.points = s.tile;
  const float* data = x.const_data_ptr<float>();
  const auto make = [&](float* memory) { return JetTile(jets, s.tile, !keeps, false, memory); };
  const int64_t numbers = JetTile::numbers(jets, s.tile, !keeps, false);
  const bool zero = !jets.curved.back();
  over_tiles(s, nothing_summed, numbers, make,
             [&](JetTile& tile, int64_t row, int64_t rows, auto&) {
               kept.point(tile.z, numbers_of_z, row, N);
               const float* o = tile.up(data + row * I, row, rows, true);
               const int64_t n = rows * O;
               of_columns(order, [&](int part, int64_t place, int64_t column, int64_t columns) {
                 float* into = to[part] + row * O * columns + column;
                 for (int64_t i = 0; i < n; ++i)
                   into[i * columns] = part == 2 && zero ? float(0) : o[place * n + i];
               });
               return 0.0;
             });
  return found;
}

Gradients jets_down(const Net& net, const Order& order, const at::Tensor& lines,
                    const at::Tensor& x, const Derived& grads, const KeptJets& kept,
                    const std::vector<bool>& wants) {
  const bool again = !kept.z.defined();
  const Weights by(net, wants, again);
  const JetNet jets(by, order, lines);
  Accumulated sums(net, wants, x);
  const int64_t N = x.size(0), I = x.size(1), O = net.layers.back().outputs;
  std::vector<const float*> from;
  for (const auto& each : grads)
    from.push_back(each.defined() ? each.const_data_ptr<float>() : nullptr);
  const float* data = x.const_data_ptr<float>();
  float* grad_x = sums.found.x.defined() ? sums.found.x.mutable_data_ptr<float>() : nullptr;
  const Split s = split_of(jets, N, kept.points, sums.numbers());
  const auto make = [&](float* memory) { return JetTile(jets, s.tile, again, true, memory); };
  const int64_t numbers = JetTile::numbers(jets, s.tile, again, true);
  const auto numbers_of_z = jets.numbers_of_z();
  over_tiles(s, sums, numbers, make,
             [&](JetTile& tile, int64_t row, int64_t rows, const Into& into) {
               kept.point(tile.z, numbers_of_z, row, N);
               if (again) tile.up(data + row * I, row, rows, false);
               const int64_t n = rows * O;
               float* g = tile.delta();
               std::fill(g, g + order.rows() * n, float(0));
               of_columns(order, [&](int part, int64_t place, int64_t column, int64_t columns) {
                 if (!from[part]) return;
                 const float* source = from[part] + row * O * columns + column;
                 for (int64_t i = 0; i < n; ++i) g[place * n + i] += source[i * columns];
               });
               tile.down(data + row * I, row, rows, into, grad_x ? grad_x + row * I : nullptr);
               return 0.0;
             });
  return sums.found;
}

}  // namespace manualbp
