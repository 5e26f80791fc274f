#include "tiles/net.h"

#ifdef __linux__
#include <sys/mman.h>
#endif

#include <algorithm>

namespace manualbp {

// glibc's malloc asks the system anew for each block of this size, so every page of it faults.
constexpr size_t kMappedAnew = size_t(32) << 20, kPage = 4096;

at::Tensor floats(at::IntArrayRef shape) {
  auto found = at::detail::empty_cpu(shape, at::kFloat);
#ifdef __linux__
  if (found.nbytes() >= kMappedAnew) {  // a large page faults once for 512
    auto begin = reinterpret_cast<uintptr_t>(found.mutable_data_ptr()) / kPage * kPage;
    madvise(reinterpret_cast<void*>(begin), found.nbytes(), MADV_HUGEPAGE);
  }
#endif
  return found;
}

Net::Net(int64_t n, int64_t rows, std::vector<at::Tensor> all)
    : features(n), tile_rows(rows), parameters(std::move(all)) {}

void Net::linear(int weight, int bias) {
  const auto& W = parameters.at(weight);
  layers.push_back({Layer::kLinear, W.size(1), W.size(0)});
  layers.back().weight = weight;
  layers.back().bias = bias;
}

void Net::activation(const std::string& f, double p, double q) {
  if (layers.empty() || layers.back().kind != Layer::kLinear || layers.back().f != "identity") {
    const int64_t width = layers.empty() ? features : layers.back().outputs;
    layers.push_back({Layer::kActivation, width, width});
  }
  layers.back().f = f;
  layers.back().p = p;
  layers.back().q = q;
}

void Net::layer_norm(int64_t features, double eps, int weight, int bias) {
  layers.push_back({Layer::kLayerNorm, features, features});
  layers.back().eps = eps;
  layers.back().weight = weight;
  layers.back().bias = bias;
}

int64_t Net::widest() const {
  int64_t found = features;
  for (const auto& layer : layers) found = std::max({found, layer.inputs, layer.outputs});
  return found;
}

int64_t Net::products() const {
  int64_t found = 0;
  for (const auto& layer : layers) {
    if (layer.kind == Layer::kLinear) found += layer.inputs * layer.outputs;
  }
  return found;
}

}  // namespace manualbp
