// w <- w - epsilon dC/dw
#pragma once
#include <ATen/core/Tensor.h>

#include <vector>

namespace manualbp {

// For every parameter, with the bits of torch.optim.SGD.
void descend(const std::vector<at::Tensor>& parameters, const std::vector<at::Tensor>& gradients,
             double lr);

}  // namespace manualbp
