// torch.distributed's TCPStore, both sides: where the ranks of a trainer and the engine meet to make a group.
export { TcpStoreClient, type TcpStoreClientOptions } from './client.js';
export { NCCL_ID_BYTES, readNcclId, writeNcclId } from './nccl_id.js';
export { TcpStoreServer, type TcpStoreServerOptions } from './server.js';
export { StatelessGroup, type StatelessGroupOptions } from './stateless_group.js';
