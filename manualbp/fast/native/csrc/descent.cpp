#include "descent.h"

#include <ATen/core/grad_mode.h>

namespace manualbp {

void descend(const std::vector<at::Tensor>& parameters, const std::vector<at::Tensor>& gradients,
             double lr) {
  at::NoGradGuard no_graph;
  for (size_t i = 0; i < parameters.size(); ++i) parameters[i].add_(gradients[i], -lr);
}

}  // namespace manualbp
