#include "tiles/sums.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <algorithm>

namespace manualbp {

namespace {

constexpr int64_t kWorth = 1 << 19;  // multiplications that are worth a thread of their own
constexpr int64_t kLeastRows = 16;   // of a tile, where there are several
constexpr int64_t kSmall = 1 << 17;  // numbers up to which each thread has several groups
constexpr int64_t kGroups = 8;       // so many, to even out what else the machine does

}  // namespace

Split split(int64_t rows, int64_t tile, bool fixed, int64_t work, int64_t gradients,
            int64_t summed) {
  Split s{rows};
  const int64_t most =
      std::min({static_cast<int64_t>(at::get_num_threads()), std::max<int64_t>(work / kWorth, 1),
                std::max<int64_t>(rows * summed / kLeastRows, 1)});
  s.threads = static_cast<int>(most);
  s.tiles = std::max<int64_t>((rows + tile - 1) / tile, 1);
  if (!fixed) s.tiles = (s.tiles + most - 1) / most * most;  // as many for each thread
  s.tile = (rows + s.tiles - 1) / s.tiles;
  s.tiles = (rows + s.tile - 1) / s.tile;
  const int64_t each = gradients <= kSmall ? kGroups : 1;
  s.groups = s.threads == 1 ? 1 : std::min(s.tiles, each * s.threads);
  s.summed = summed;
  return s;
}

Accumulated::Accumulated(const Net& net, const std::vector<bool>& wants, const at::Tensor& x) {
  found.parameters.resize(net.parameters.size());
  for (size_t i = 0; i < net.parameters.size(); ++i) {
    if (!wants[i]) continue;
    const auto& parameter = net.parameters[i];
    found.parameters[i] = floats(parameter.sizes());
    auto& kind = parameter.dim() == 2 ? matrices_ : vectors_;
    kind.push_back(
        {i, kind.empty() ? 0 : kind.back().offset + kind.back().count, parameter.numel()});
  }
  if (wants.back()) found.x = floats(x.sizes());
}

void Accumulated::begin(const Split& split) {
  const bool in_levels = split.summed * split.tile * split.start(1) > kLevel;  // of the largest
  const int64_t M = length(matrices_), V = length(vectors_);
  if (split.groups > 1) floats_ = floats({(split.groups - 1) * M});
  vector_sums_.assign(split.groups * V, 0.0);
  if (in_levels) totals_ = at::empty({split.groups * M}, at::kDouble);
  groups.resize(split.groups);
  for (int64_t g = 0; g < split.groups; ++g) {
    auto& into = groups[g].into;
    into.matrices.resize(found.parameters.size());
    into.vectors.resize(found.parameters.size());
    for (const auto& part : matrices_) {
      into.matrices[part.at] =
          g == 0 ? data(part) : floats_.mutable_data_ptr<float>() + (g - 1) * M + part.offset;
    }
    for (const auto& part : vectors_) into.vectors[part.at] = &vector_sums_[g * V + part.offset];
  }
}

void Accumulated::level(int64_t g) {
  auto& group = groups[g];
  const bool first = group.total == nullptr;
  group.total = totals_.mutable_data_ptr<double>() + g * length(matrices_);
  for (const auto& part : matrices_) {
    const float* sums = group.into.matrices[part.at];
    double* total = group.total + part.offset;
    for (int64_t n = 0; n < part.count; ++n) total[n] = first ? sums[n] : total[n] + sums[n];
  }
}

double Accumulated::end() {
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
  if (groups.size() == 1 && !totals_.defined()) return cost;
  for (const auto& part : matrices_) {
    at::parallel_for(0, part.count, 1 << 14,
                     [&](int64_t begin, int64_t end) { add_groups(part, begin, end); });
  }
  return cost;
}

void Accumulated::add_groups(const Part& part, int64_t begin, int64_t end) const {
  float* into = data(part);
  if (!totals_.defined()) {
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

}  // namespace manualbp
