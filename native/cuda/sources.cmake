# The CUDA part: a shared library of its own, built where nvcc is found, opened by the addon when a GPU is asked
# for. Needs nothing of CUDA but nvcc: the runtime is linked statically, the driver and cuBLASLt are opened at
# run time. `-DKADENZ_CUDA_ARCHITECTURES=90a-real` builds for one kind of GPU only, in a third of the time.
set(KADENZ_CUDA_ARCHITECTURES default CACHE STRING "GPUs to build for, as in CUDA_ARCHITECTURES")
if(KADENZ_CUDA_ARCHITECTURES STREQUAL "default")
  set(KADENZ_CUDA_ARCHITECTURES "80-real;90a-real;100a-real;100-virtual")
endif()
# Not every CMake that finds this nvcc knows that it speaks C++20.
if(NOT DEFINED CMAKE_CUDA20_STANDARD_COMPILE_OPTION)
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
endif()
file(GLOB KADENZ_CUDA_SOURCES CONFIGURE_DEPENDS
  ${CMAKE_CURRENT_LIST_DIR}/*.cc ${CMAKE_CURRENT_LIST_DIR}/kernels/*.cu)
list(REMOVE_ITEM KADENZ_CUDA_SOURCES ${CMAKE_CURRENT_LIST_DIR}/plugin.cc)

add_library(kadenz_cuda_host STATIC ${KADENZ_CUDA_SOURCES})
set_target_properties(kadenz_cuda_host PROPERTIES
  CUDA_ARCHITECTURES "${KADENZ_CUDA_ARCHITECTURES}" CUDA_RUNTIME_LIBRARY Static)
target_include_directories(kadenz_cuda_host SYSTEM PUBLIC ${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES})
target_compile_options(kadenz_cuda_host PRIVATE $<$<COMPILE_LANGUAGE:CXX>:-Wall;-Wextra>)
target_link_libraries(kadenz_cuda_host PUBLIC kadenz_host ${CMAKE_DL_LIBS})

add_library(kadenz_cuda MODULE ${CMAKE_CURRENT_LIST_DIR}/plugin.cc)
set_target_properties(kadenz_cuda PROPERTIES PREFIX "" SUFFIX ".so" CUDA_RUNTIME_LIBRARY Static LINKER_LANGUAGE CUDA)
target_link_libraries(kadenz_cuda PRIVATE kadenz_cuda_host)
if(DEFINED CMAKE_LIBRARY_OUTPUT_DIRECTORY)
  set_target_properties(kadenz_cuda PROPERTIES LIBRARY_OUTPUT_DIRECTORY ${CMAKE_LIBRARY_OUTPUT_DIRECTORY})
endif()

# Their tests need a GPU; each benchmark is a program of its own. Built on demand: `cmake --build ... -t cuda_tests`.
file(GLOB KADENZ_CUDA_TEST_SOURCES CONFIGURE_DEPENDS
  ${CMAKE_CURRENT_LIST_DIR}/test/*_test.cu ${CMAKE_CURRENT_LIST_DIR}/test/*_test.cc)
add_executable(cuda_tests EXCLUDE_FROM_ALL ${KADENZ_CUDA_TEST_SOURCES}
  ${CMAKE_CURRENT_LIST_DIR}/../test/main.cc ${CMAKE_CURRENT_LIST_DIR}/../test/tiny_model.cc)
file(GLOB KADENZ_CUDA_BENCHMARKS CONFIGURE_DEPENDS ${CMAKE_CURRENT_LIST_DIR}/bench/*_bench.cu)
add_custom_target(cuda_benchmarks)
# In a process of its own: it breaks the CUDA context on purpose.
add_executable(cuda_fault_tests EXCLUDE_FROM_ALL ${CMAKE_CURRENT_LIST_DIR}/test/fault/device_fault_test.cu
  ${CMAKE_CURRENT_LIST_DIR}/../test/main.cc ${CMAKE_CURRENT_LIST_DIR}/../test/tiny_model.cc)
set(KADENZ_CUDA_PROGRAMS cuda_tests cuda_fault_tests)
foreach(source ${KADENZ_CUDA_BENCHMARKS})
  get_filename_component(name ${source} NAME_WE)
  add_executable(${name} EXCLUDE_FROM_ALL ${source})
  add_dependencies(cuda_benchmarks ${name})
  list(APPEND KADENZ_CUDA_PROGRAMS ${name})
endforeach()
foreach(program ${KADENZ_CUDA_PROGRAMS})
  set_target_properties(${program} PROPERTIES CUDA_ARCHITECTURES "${KADENZ_CUDA_ARCHITECTURES}" CUDA_STANDARD 20
    CUDA_RUNTIME_LIBRARY Static RUNTIME_OUTPUT_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR}/cuda)
  target_include_directories(${program} PRIVATE ${CMAKE_CURRENT_LIST_DIR}/../test ${CMAKE_CURRENT_LIST_DIR}/test)
  target_link_libraries(${program} PRIVATE kadenz_cuda_host)
endforeach()

# Says when each kernel ran, also inside graphs (bench/gpu/kernel_times.mjs). Needs CUPTI, of the CUDA toolkit.
find_path(KADENZ_CUPTI_INCLUDE cupti.h HINTS ${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES}
  ${CUDAToolkit_ROOT}/extras/CUPTI/include /usr/local/cuda/extras/CUPTI/include NO_CACHE)
find_library(KADENZ_CUPTI_LIBRARY cupti HINTS ${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES}/../lib
  /usr/local/cuda/lib64 /usr/local/cuda/extras/CUPTI/lib64 NO_CACHE)
if(KADENZ_CUPTI_INCLUDE AND KADENZ_CUPTI_LIBRARY)
  add_library(kernel_times SHARED EXCLUDE_FROM_ALL ${CMAKE_CURRENT_LIST_DIR}/bench/kernel_times.cc)
  target_include_directories(kernel_times SYSTEM PRIVATE
    ${KADENZ_CUPTI_INCLUDE} ${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES})
  target_link_libraries(kernel_times PRIVATE ${KADENZ_CUPTI_LIBRARY})
  set_target_properties(kernel_times PROPERTIES LIBRARY_OUTPUT_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR}/cuda)
endif()
