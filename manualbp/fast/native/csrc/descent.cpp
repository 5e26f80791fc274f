#include "descent.h"

#include <ATen/core/grad_mode.h>

namespace manualbp {

void descend(const std::vector<at::Tensor>& parameters, double epsilon) {
  at::NoGradGuard no_graph;
  for (const at::Tensor& w : parameters) {
    const at::Tensor& gradient = w.grad();
    if (gradient.defined()) w.add_(gradient, -epsilon);
  }
}

}  // namespace manualbp
