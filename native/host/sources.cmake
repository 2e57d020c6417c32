# The host around the decoder. Include from a CMakeLists.txt whose include path holds native/; sets
# KADENZ_HOST_SOURCES.
set(KADENZ_HOST_SOURCES
  ${CMAKE_CURRENT_LIST_DIR}/cpu_device.cc
  ${CMAKE_CURRENT_LIST_DIR}/cuda_plugin.cc
  ${CMAKE_CURRENT_LIST_DIR}/executor.cc
  ${CMAKE_CURRENT_LIST_DIR}/host.cc
  ${CMAKE_CURRENT_LIST_DIR}/input_batch.cc
  ${CMAKE_CURRENT_LIST_DIR}/logit_kernels.cc
  ${CMAKE_CURRENT_LIST_DIR}/logit_kernels_scalar.cc
  ${CMAKE_CURRENT_LIST_DIR}/plan.cc
  ${CMAKE_CURRENT_LIST_DIR}/result.cc
  ${CMAKE_CURRENT_LIST_DIR}/sampler.cc
  ${CMAKE_CURRENT_LIST_DIR}/sampling_step.cc
  ${CMAKE_CURRENT_LIST_DIR}/selection.cc
  ${CMAKE_CURRENT_LIST_DIR}/slots.cc
  ${CMAKE_CURRENT_LIST_DIR}/token_counts.cc)
# a * b + c stays two roundings unless the source says fma: the compiler's choice must not reach the bits.
set_source_files_properties(${KADENZ_HOST_SOURCES} PROPERTIES COMPILE_OPTIONS "-ffp-contract=off")
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  list(APPEND KADENZ_HOST_SOURCES
    ${CMAKE_CURRENT_LIST_DIR}/logit_kernels_avx2.cc ${CMAKE_CURRENT_LIST_DIR}/logit_kernels_avx512.cc)
  set_source_files_properties(${CMAKE_CURRENT_LIST_DIR}/logit_kernels_avx2.cc PROPERTIES
    COMPILE_OPTIONS "-ffp-contract=off;-mavx2;-mfma;-mf16c")
  # -Wno-...uninitialized: gcc 12 warns of its own AVX-512 header.
  set(KADENZ_AVX512_FLAGS -mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma -mf16c)
  set_source_files_properties(${CMAKE_CURRENT_LIST_DIR}/logit_kernels_avx512.cc PROPERTIES
    COMPILE_OPTIONS "-ffp-contract=off;${KADENZ_AVX512_FLAGS};-Wno-uninitialized;-Wno-maybe-uninitialized")
endif()
