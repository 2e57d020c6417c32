// A library that the CUDA driver loads into a process (CUDA_INJECTION64_PATH names it) and that writes when each kernel and copy ran on the
// GPU, also those inside CUDA graphs, without making them wait for one another: to the file that KADENZ_KERNEL_TIMES names, a line
// `begin_ns,end_ns,name` each, in no particular order. bench/gpu/kernel_times.mjs makes tables of it.
//
// Uses CUPTI's activity records, https://docs.nvidia.com/cupti/main/main.html#cupti-activity-api
#include <cupti.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <mutex>

namespace {

constexpr size_t kBufferBytes = 8 << 20;
std::FILE* output = nullptr;
std::mutex output_mutex;

void require(CUptiResult result, const char* what) {
  if (result == CUPTI_SUCCESS) return;
  const char* sentence = nullptr;
  cuptiGetResultString(result, &sentence);
  std::fprintf(stderr, "kernel_times: %s failed: %s\n", what, sentence);
  std::exit(1);
}

void CUPTIAPI give_buffer(uint8_t** buffer, size_t* bytes, size_t* most_records) {
  *buffer = static_cast<uint8_t*>(std::aligned_alloc(8, kBufferBytes));
  *bytes = *buffer == nullptr ? 0 : kBufferBytes;
  *most_records = 0;
}

void write(uint64_t begin_ns, uint64_t end_ns, const char* name) {
  std::fprintf(output, "%llu,%llu,%s\n", static_cast<unsigned long long>(begin_ns),
               static_cast<unsigned long long>(end_ns), name);
}

void CUPTIAPI take_buffer(CUcontext, uint32_t, uint8_t* buffer, size_t, size_t bytes) {
  const std::lock_guard lock(output_mutex);
  CUpti_Activity* record = nullptr;
  while (bytes > 0 && cuptiActivityGetNextRecord(buffer, bytes, &record) == CUPTI_SUCCESS) {
    switch (record->kind) {
      case CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL: {
        const auto* kernel = reinterpret_cast<const CUpti_ActivityKernel9*>(record);
        write(kernel->start, kernel->end, kernel->name);
        break;
      }
      case CUPTI_ACTIVITY_KIND_MEMCPY: {
        const auto* copy = reinterpret_cast<const CUpti_ActivityMemcpy5*>(record);
        write(copy->start, copy->end, "memcpy");
        break;
      }
      case CUPTI_ACTIVITY_KIND_MEMSET: {
        const auto* set = reinterpret_cast<const CUpti_ActivityMemset4*>(record);
        write(set->start, set->end, "memset");
        break;
      }
      default: break;
    }
  }
  std::free(buffer);
}

void finish() {
  cuptiActivityFlushAll(1);
  const std::lock_guard lock(output_mutex);
  std::fclose(output);
}

}  // namespace

extern "C" __attribute__((visibility("default"))) int InitializeInjection() {
  const char* path = std::getenv("KADENZ_KERNEL_TIMES");
  if (path == nullptr) return 1;
  output = std::fopen(path, "w");
  if (output == nullptr) {
    std::fprintf(stderr, "kernel_times: %s can't be written.\n", path);
    std::exit(1);
  }
  require(cuptiActivityRegisterCallbacks(give_buffer, take_buffer), "cuptiActivityRegisterCallbacks");
  for (const CUpti_ActivityKind kind :
       {CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL, CUPTI_ACTIVITY_KIND_MEMCPY, CUPTI_ACTIVITY_KIND_MEMSET}) {
    require(cuptiActivityEnable(kind), "cuptiActivityEnable");
  }
  std::atexit(finish);
  return 1;
}
