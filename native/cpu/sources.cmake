# The CPU kernels and ops. Include from a CMakeLists.txt whose include path holds native/; sets KADENZ_CPU_SOURCES.
# One source of kernels is compiled for three instruction sets; the program chooses when it runs.
set(KADENZ_CPU_SOURCES
  ${CMAKE_CURRENT_LIST_DIR}/cpu_ops.cc
  ${CMAKE_CURRENT_LIST_DIR}/isa.cc
  ${CMAKE_CURRENT_LIST_DIR}/kv_cache.cc
  ${CMAKE_CURRENT_LIST_DIR}/memory.cc
  ${CMAKE_CURRENT_LIST_DIR}/packed_weights.cc
  ${CMAKE_CURRENT_LIST_DIR}/step_rows.cc
  ${CMAKE_CURRENT_LIST_DIR}/thread_pool.cc)

# a * b + c stays two roundings unless the source says fma: the compiler's choice must not reach the bits.
set(KADENZ_CPU_FLAGS -O3 -ffp-contract=off -fno-math-errno)
set_source_files_properties(${KADENZ_CPU_SOURCES} PROPERTIES COMPILE_OPTIONS "${KADENZ_CPU_FLAGS}")

# -Wno-maybe-uninitialized: gcc 12 warns of its own AVX-512 header.
set(KADENZ_CPU_KERNELS ${CMAKE_CURRENT_LIST_DIR}/kernels_scalar.cc)
set_source_files_properties(${CMAKE_CURRENT_LIST_DIR}/kernels_scalar.cc PROPERTIES
  COMPILE_OPTIONS "${KADENZ_CPU_FLAGS}")
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  list(APPEND KADENZ_CPU_KERNELS
    ${CMAKE_CURRENT_LIST_DIR}/kernels_avx2.cc ${CMAKE_CURRENT_LIST_DIR}/kernels_avx512.cc)
  set_source_files_properties(${CMAKE_CURRENT_LIST_DIR}/kernels_avx2.cc PROPERTIES
    COMPILE_OPTIONS "${KADENZ_CPU_FLAGS};-mavx2;-mfma;-mf16c")
  set_source_files_properties(${CMAKE_CURRENT_LIST_DIR}/kernels_avx512.cc PROPERTIES
    COMPILE_OPTIONS "${KADENZ_CPU_FLAGS};-mavx512f;-mavx512bw;-mavx512dq;-mavx512vl;-mavx2;-mfma;-mf16c;-mprefer-vector-width=512;-Wno-maybe-uninitialized")
endif()
list(APPEND KADENZ_CPU_SOURCES ${KADENZ_CPU_KERNELS})
