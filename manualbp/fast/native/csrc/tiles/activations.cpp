#include "tiles/activations.h"

#include <unordered_map>

namespace manualbp {

const Sweeps* activation(const std::string& name) {
  static const std::unordered_map<std::string, Sweeps> table = {
      {"identity", sweeps_of<Identity>()},
      {"sigmoid", sweeps_of<Sigmoid>()},
      {"tanh", sweeps_of<Tanh>()},
      {"relu", sweeps_of<ReLU>()},
      {"leaky_relu", sweeps_of<LeakyReLU>()},
      {"elu", sweeps_of<ELU>()},
      {"selu", sweeps_of<ELU>()},
      {"gelu", sweeps_of<GELU>()},
      {"gelu_tanh", sweeps_of<GELUTanh>()},
      {"silu", sweeps_of<SiLU>()},
      {"softplus", sweeps_of<Softplus>()},
      {"hardtanh", sweeps_of<Hardtanh>()},
  };
  const auto found = table.find(name);
  return found == table.end() ? nullptr : &found->second;
}

}  // namespace manualbp
