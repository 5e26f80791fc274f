// w <- w - epsilon dC/dw
#pragma once
#include <ATen/core/Tensor.h>

#include <vector>

namespace manualbp {

// For every w that has a gradient, with the bits of torch.optim.SGD.
void descend(const std::vector<at::Tensor>& parameters, double epsilon);

}  // namespace manualbp
