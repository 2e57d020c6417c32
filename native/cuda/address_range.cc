#include "cuda/address_range.h"

#include <cudaTypedefs.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "cuda/check.h"
#include "cuda/out_of_memory.h"
#include "model/checked_math.h"
#include "model/error.h"

namespace kadenz::cuda {
namespace {

constexpr uint64_t kHandleBytes = uint64_t{1} << 30;

// The driver's own functions, asked of the driver that the runtime found: nothing links libcuda, so that the
// library loads where there is none.
struct Driver {
  PFN_cuMemAddressReserve_v10020 address_reserve;
  PFN_cuMemAddressFree_v10020 address_free;
  PFN_cuMemCreate_v10020 create;
  PFN_cuMemRelease_v10020 release;
  PFN_cuMemMap_v10020 map;
  PFN_cuMemUnmap_v10020 unmap;
  PFN_cuMemSetAccess_v10020 set_access;
  PFN_cuMemGetAllocationGranularity_v10020 granularity;
  PFN_cuGetErrorName_v6000 error_name;
};

template <class Function>
void look_up(const char* name, Function& function) {
  constexpr unsigned kInterfaceVersion = 10020;  // CUDA 10.2, which brought virtual memory management
  void* found = nullptr;
  cudaDriverEntryPointQueryResult result = cudaDriverEntryPointSymbolNotFound;
  check(cudaGetDriverEntryPointByVersion(name, &found, kInterfaceVersion, cudaEnableDefault, &result), name);
  if (result != cudaDriverEntryPointSuccess || found == nullptr) {
    throw HostError("device_error",
                    std::string("The NVIDIA driver offers no ") + name + "; a newer driver is needed.");
  }
  function = reinterpret_cast<Function>(found);
}

Driver look_up_driver() {
  Driver found{};
  look_up("cuMemAddressReserve", found.address_reserve);
  look_up("cuMemAddressFree", found.address_free);
  look_up("cuMemCreate", found.create);
  look_up("cuMemRelease", found.release);
  look_up("cuMemMap", found.map);
  look_up("cuMemUnmap", found.unmap);
  look_up("cuMemSetAccess", found.set_access);
  look_up("cuMemGetAllocationGranularity", found.granularity);
  look_up("cuGetErrorName", found.error_name);
  return found;
}

const Driver& driver() {
  static const Driver found = look_up_driver();
  return found;
}

HostError driver_error(CUresult result, const char* call) {
  const char* name = nullptr;
  if (driver().error_name(result, &name) != CUDA_SUCCESS || name == nullptr) name = "an unknown error";
  return HostError("device_error",
                   std::string(call) + " failed: " + name + " (" + std::to_string(int{result}) + ").");
}

void check_driver(CUresult result, const char* call) {
  if (result != CUDA_SUCCESS) throw driver_error(result, call);
}

uint64_t round_up(uint64_t bytes, uint64_t granularity_bytes) {
  return checked_add(bytes, granularity_bytes - 1, "a size in device memory") / granularity_bytes *
         granularity_bytes;
}

CUmemAllocationProp memory_of(int device) {
  CUmemAllocationProp properties{};
  properties.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  properties.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
  properties.location.id = device;
  return properties;
}

}  // namespace

AddressRange::AddressRange(uint64_t capacity_bytes, std::string purpose) : purpose_(std::move(purpose)) {
  check(cudaGetDevice(&device_), "cudaGetDevice");
  check(cudaFree(nullptr), "cudaFree");  // makes the device's context, which the driver's functions need
  const CUmemAllocationProp properties = memory_of(device_);
  size_t granularity_bytes = 0;
  check_driver(driver().granularity(&granularity_bytes, &properties, CU_MEM_ALLOC_GRANULARITY_RECOMMENDED),
               "cuMemGetAllocationGranularity");
  granularity_bytes_ = granularity_bytes;
  const uint64_t reserved_bytes = round_up(std::max<uint64_t>(capacity_bytes, 1), granularity_bytes_);
  const CUresult reserved = driver().address_reserve(&base_, reserved_bytes, 0, 0, 0);
  if (reserved == CUDA_ERROR_OUT_OF_MEMORY || reserved == CUDA_ERROR_INVALID_VALUE) {
    throw out_of_memory(capacity_bytes, purpose_, "Not even that many addresses can be reserved.");
  }
  check_driver(reserved, "cuMemAddressReserve");
  capacity_bytes_ = reserved_bytes;
}

AddressRange::~AddressRange() {
  // Errors are left: a device that has failed takes its memory back with the process.
  if (cudaSetDevice(device_) == cudaSuccess) cudaDeviceSynchronize();
  give_back();
  driver().address_free(base_, capacity_bytes_);
  cudaGetLastError();  // not to be blamed on the next launch
}

void AddressRange::map(uint64_t bytes, const std::string& remedy) {
  if (mapped_bytes_ != 0) throw std::logic_error("the address range of " + purpose_ + " is mapped already");
  if (bytes > capacity_bytes_) {
    throw std::logic_error("mapping " + std::to_string(bytes) + " bytes of " +
                           std::to_string(capacity_bytes_) + " reserved for " + purpose_);
  }
  if (bytes == 0) return;
  check(cudaSetDevice(device_), "cudaSetDevice");
  const uint64_t wanted_bytes = round_up(bytes, granularity_bytes_);
  const uint64_t handle_bytes = round_up(kHandleBytes, granularity_bytes_);
  const CUmemAllocationProp properties = memory_of(device_);
  chunks_.reserve(wanted_bytes / handle_bytes + 1);
  while (mapped_bytes_ < wanted_bytes) {
    const uint64_t part_bytes = std::min(handle_bytes, wanted_bytes - mapped_bytes_);
    CUmemGenericAllocationHandle handle = 0;
    const CUresult created = driver().create(&handle, part_bytes, &properties, 0);
    if (created != CUDA_SUCCESS) {
      give_back();  // first, so that the sentence tells what is free without us
      if (created == CUDA_ERROR_OUT_OF_MEMORY) throw out_of_memory(bytes, purpose_, remedy);
      throw driver_error(created, "cuMemCreate");
    }
    const CUresult mapped = driver().map(base_ + mapped_bytes_, part_bytes, 0, handle, 0);
    if (mapped != CUDA_SUCCESS) {
      driver().release(handle);
      give_back();
      throw driver_error(mapped, "cuMemMap");
    }
    chunks_.push_back({handle, part_bytes});
    mapped_bytes_ += part_bytes;
  }
  CUmemAccessDesc access{};
  access.location = properties.location;
  access.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
  const CUresult allowed = driver().set_access(base_, wanted_bytes, &access, 1);
  if (allowed != CUDA_SUCCESS) {
    give_back();
    if (allowed == CUDA_ERROR_OUT_OF_MEMORY) throw out_of_memory(bytes, purpose_, remedy);
    throw driver_error(allowed, "cuMemSetAccess");
  }
}

void AddressRange::unmap() {
  if (mapped_bytes_ == 0) return;
  check(cudaSetDevice(device_), "cudaSetDevice");
  check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  check_driver(give_back(), "cuMemUnmap or cuMemRelease");
}

// Everything that can be given back is, whatever fails on the way; the first failure is the answer.
CUresult AddressRange::give_back() {
  CUresult first = CUDA_SUCCESS;
  const auto keep = [&first](CUresult result) {
    if (first == CUDA_SUCCESS) first = result;
  };
  CUdeviceptr address = base_;
  for (const Chunk& chunk : chunks_) {
    keep(driver().unmap(address, chunk.bytes));
    address += chunk.bytes;
  }
  for (const Chunk& chunk : chunks_) keep(driver().release(chunk.handle));
  chunks_.clear();
  mapped_bytes_ = 0;
  return first;
}

}  // namespace kadenz::cuda
