#include "tiles/passes.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/scalar_tensor.h>

#include <algorithm>
#include <atomic>
#include <memory>

#include "tiles/tile.h"

namespace manualbp {

namespace {

constexpr int64_t kLevel = 2048;     // rows after which a group's sums go on in double
constexpr int64_t kWorth = 1 << 19;  // multiplications that are worth a thread of their own
constexpr int64_t kLeastRows = 16;   // of a tile, where there are several
constexpr int64_t kSmall = 1 << 17;  // numbers up to which each thread has several groups
constexpr int64_t kGroups = 8;       // so many, to even out what else the machine does

// An allocator for vectors whose numbers are not set to 0 first.
template <typename T>
struct Unset : std::allocator<T> {
  template <typename U>
  struct rebind {
    using other = Unset<U>;
  };
  template <typename U>
  void construct(U* at) noexcept {
    ::new (static_cast<void*>(at)) U;
  }
};
template <typename T>
using Uninitialized = std::vector<T, Unset<T>>;

// Which rows are a tile, and which tiles a group.
struct Split {
  int64_t rows, tile, tiles, groups;
  int threads;

  int64_t start(int64_t group) const { return group * tiles / groups; }
};

Split split(const Weights& by, int64_t rows, int64_t gradients) {
  Split s{rows};
  const int64_t work = 3 * rows * std::max<int64_t>(by.net.products(), 1);
  const int64_t most =
      std::min({static_cast<int64_t>(at::get_num_threads()), std::max<int64_t>(work / kWorth, 1),
                std::max<int64_t>(rows / kLeastRows, 1)});
  s.threads = static_cast<int>(most);
  s.tiles = std::max((rows + by.rows - 1) / by.rows, by.net.tile_rows > 0 ? 1 : most);
  s.tile = (rows + s.tiles - 1) / s.tiles;
  s.tiles = (rows + s.tile - 1) / s.tile;
  const int64_t each = gradients <= kSmall ? kGroups : 1;
  s.groups = s.threads == 1 ? 1 : std::min(s.tiles, each * s.threads);
  return s;
}

// The sums of one group: into for some tiles, total for the matrices of all of them.
struct Sums {
  Into into;
  double* total = nullptr;  // nullptr while the first tiles are added up
  double cost = 0;
};

// Every wanted gradient of every group.
class Accumulated {
 public:
  Accumulated(const Net& net, const std::vector<bool>& wants, const at::Tensor& x) {
    found.parameters.resize(net.parameters.size());
    for (size_t i = 0; i < net.parameters.size(); ++i) {
      if (!wants[i]) continue;
      const auto& parameter = net.parameters[i];
      found.parameters[i] = at::empty(parameter.sizes(), x.options());
      auto& kind = parameter.dim() == 2 ? matrices_ : vectors_;
      kind.push_back(
          {i, kind.empty() ? 0 : kind.back().offset + kind.back().count, parameter.numel()});
    }
    if (wants.back()) found.x = at::empty(x.sizes(), x.options());
  }

  int64_t numbers() const { return length(matrices_); }

  // Memory for the groups; the first group's matrices are the tensors themselves.
  void begin(const Split& split) {
    const bool in_levels = split.tile * split.tiles > kLevel * split.groups;
    const int64_t M = length(matrices_), V = length(vectors_);
    floats_.resize((split.groups - 1) * M);
    vector_sums_.assign(split.groups * V, 0.0);
    if (in_levels) totals_.resize(split.groups * M);
    groups.resize(split.groups);
    for (int64_t g = 0; g < split.groups; ++g) {
      auto& into = groups[g].into;
      into.matrices.resize(found.parameters.size());
      into.vectors.resize(found.parameters.size());
      for (const auto& part : matrices_) {
        into.matrices[part.at] = g == 0 ? data(part) : &floats_[(g - 1) * M + part.offset];
      }
      for (const auto& part : vectors_) into.vectors[part.at] = &vector_sums_[g * V + part.offset];
    }
  }

  // A group's sums so far go on in double, and those of its next tiles start anew.
  void level(int64_t g) {
    if (totals_.empty()) return;
    auto& group = groups[g];
    const bool first = group.total == nullptr;
    group.total = &totals_[g * length(matrices_)];
    for (const auto& part : matrices_) {
      const float* sums = group.into.matrices[part.at];
      double* total = group.total + part.offset;
      for (int64_t n = 0; n < part.count; ++n) total[n] = first ? sums[n] : total[n] + sums[n];
    }
  }

  // The groups added up in order, into the tensors; the sum of all errors.
  double end() {
    double cost = 0;
    for (const auto& group : groups) cost += group.cost;
    for (const auto& part : vectors_) {
      float* into = data(part);
      for (int64_t n = 0; n < part.count; ++n) {
        double sum = 0;
        for (const auto& group : groups) sum += group.into.vectors[part.at][n];
        into[n] = static_cast<float>(sum);
      }
    }
    if (groups.size() == 1 && totals_.empty()) return cost;
    for (const auto& part : matrices_) {
      at::parallel_for(0, part.count, 1 << 14,
                       [&](int64_t begin, int64_t end) { add_groups(part, begin, end); });
    }
    return cost;
  }

  Gradients found;
  std::vector<Sums> groups;

 private:
  struct Part {
    size_t at;  // of the parameter
    int64_t offset, count;
  };

  static int64_t length(const std::vector<Part>& parts) {
    return parts.empty() ? 0 : parts.back().offset + parts.back().count;
  }

  float* data(const Part& part) const {
    return found.parameters[part.at].mutable_data_ptr<float>();
  }

  void add_groups(const Part& part, int64_t begin, int64_t end) const {
    float* into = data(part);
    if (totals_.empty()) {
      for (size_t g = 1; g < groups.size(); ++g) {
        const float* sums = groups[g].into.matrices[part.at];
        for (int64_t n = begin; n < end; ++n) into[n] += sums[n];
      }
      return;
    }
    for (int64_t n = begin; n < end; ++n) {
      double sum = 0;
      for (const auto& group : groups) sum += group.total[part.offset + n];
      into[n] = static_cast<float>(sum);
    }
  }

  std::vector<Part> matrices_, vectors_;
  Uninitialized<float> floats_;
  Uninitialized<double> totals_;
  std::vector<double> vector_sums_;
};

// body(tile, first row, rows, into) for every tile; it returns the sum of the rows' errors.
template <typename Body>
double over_tiles(const Weights& by, Accumulated& sums, int64_t rows, bool trains, Body body) {
  const Split s = split(by, rows, sums.numbers());
  sums.begin(s);
  const int64_t numbers = Tile::numbers(by, trains) + 16;
  auto memory = at::empty({s.threads * numbers}, at::TensorOptions(at::kFloat));
  float* start = memory.mutable_data_ptr<float>();
  std::atomic<int64_t> next{0};
  const auto work = [&](int64_t thread) {
    Tile tile(by, trains, start + thread * numbers);
    for (int64_t g; (g = next++) < s.groups;) {
      auto& group = sums.groups[g];
      int64_t since = 0;
      for (int64_t t = s.start(g); t < s.start(g + 1); ++t) {
        const int64_t row = t * s.tile, count = std::min(s.tile, rows - row);
        group.cost += body(tile, row, count, group.into);
        since += count;
        group.into.first = since >= kLevel || t + 1 == s.start(g + 1);
        if (group.into.first) {
          sums.level(g);
          since = 0;
        }
      }
    }
  };
  if (s.threads == 1) {
    work(0);
  } else {
    at::parallel_for(0, s.threads, 1, [&](int64_t begin, int64_t end) {
      for (int64_t thread = begin; thread < end; ++thread) work(thread);
    });
  }
  return sums.end();
}

}  // namespace

bool any(const std::vector<bool>& wants) {
  return std::find(wants.begin(), wants.end(), true) != wants.end();
}

at::Tensor pass_up(const Net& net, const at::Tensor& x, KeptTensors* kept) {
  const std::vector<bool> nothing(net.parameters.size() + 1, false);
  const Weights by(net, nothing, true);
  const int64_t N = x.size(0);
  auto o = at::empty({N, net.layers.back().outputs}, x.options());
  const size_t depth = net.layers.size();
  std::vector<Kept> whole(depth);  // where the first row's go
  for (size_t l = 0; l < depth; ++l) {
    const auto& layer = net.layers[l];
    const auto take = [&](std::initializer_list<int64_t> shape) {
      kept->push_back(at::empty(shape, x.options()));
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

at::Tensor pass_both(const Net& net, const Loss& loss, const at::Tensor& x, const at::Tensor& y,
                     const std::vector<bool>& wants, Gradients& found) {
  const bool trains = any(wants);
  const Weights by(net, wants, true);
  const int64_t N = x.size(0), I = x.size(1);
  const Errors errors(loss, y, N, net.layers.back().outputs);
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
