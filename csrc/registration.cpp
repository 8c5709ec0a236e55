// The operators' names, schemas and devices, through PyTorch's stable ABI: one library for every later torch and
// Python.

#include <torch/csrc/stable/library.h>

#include "ms_deform_attn.h"

STABLE_TORCH_LIBRARY(ddetr_lab, m) {
  m.def(
      "ms_deform_attn(Tensor value, Tensor spatial_shapes, Tensor level_start_index, Tensor sampling_locations, "
      "Tensor attention_weights) -> Tensor");
  m.def(
      "ms_deform_attn_backward(Tensor value, Tensor spatial_shapes, Tensor level_start_index, "
      "Tensor sampling_locations, Tensor attention_weights, Tensor grad_output, bool deterministic) "
      "-> (Tensor, Tensor, Tensor)");
  m.def(
      "ms_deform_attn_fused(Tensor value, Tensor spatial_shapes, Tensor level_start_index, Tensor reference_points, "
      "Tensor sampling_offsets, Tensor attention_logits) -> Tensor");
  m.def(
      "ms_deform_attn_fused_backward(Tensor value, Tensor spatial_shapes, Tensor level_start_index, "
      "Tensor reference_points, Tensor sampling_offsets, Tensor attention_logits, Tensor grad_output, "
      "bool deterministic) -> (Tensor, Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(ddetr_lab, CPU, m) {
  m.impl("ms_deform_attn", TORCH_BOX(&ddetr::cpu::ms_deform_attn));
  m.impl("ms_deform_attn_backward", TORCH_BOX(&ddetr::cpu::ms_deform_attn_backward));
  m.impl("ms_deform_attn_fused", TORCH_BOX(&ddetr::cpu::ms_deform_attn_fused));
  m.impl("ms_deform_attn_fused_backward", TORCH_BOX(&ddetr::cpu::ms_deform_attn_fused_backward));
}

// Defined by the build where nvcc compiles cuda/*.cu into this library.
#if defined(DDETR_WITH_CUDA)
// The kernels that lost, for chapter 9's measurements: float32, contiguous.
STABLE_TORCH_LIBRARY_FRAGMENT(ddetr_lab, m) {
  m.def(
      "ladder_ms_deform_attn(Tensor value, Tensor spatial_shapes, Tensor level_start_index, "
      "Tensor sampling_locations, Tensor attention_weights) -> Tensor");
  m.def(
      "ladder_ms_deform_attn_backward(Tensor value, Tensor spatial_shapes, Tensor level_start_index, "
      "Tensor sampling_locations, Tensor attention_weights, Tensor grad_output) -> (Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(ddetr_lab, CUDA, m) {
  m.impl("ms_deform_attn", TORCH_BOX(&ddetr::cuda::ms_deform_attn));
  m.impl("ms_deform_attn_backward", TORCH_BOX(&ddetr::cuda::ms_deform_attn_backward));
  m.impl("ms_deform_attn_fused", TORCH_BOX(&ddetr::cuda::ms_deform_attn_fused));
  m.impl("ms_deform_attn_fused_backward", TORCH_BOX(&ddetr::cuda::ms_deform_attn_fused_backward));
  m.impl("ladder_ms_deform_attn", TORCH_BOX(&ddetr::cuda::ladder_ms_deform_attn));
  m.impl("ladder_ms_deform_attn_backward", TORCH_BOX(&ddetr::cuda::ladder_ms_deform_attn_backward));
}
#endif
