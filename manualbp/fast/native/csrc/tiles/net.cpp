#include "tiles/net.h"

#include <algorithm>

namespace manualbp {

Net::Net(int64_t n, std::vector<at::Tensor> all) : features(n), parameters(std::move(all)) {}

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
