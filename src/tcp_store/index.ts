// torch.distributed's TCPStore, both sides: where the ranks of a trainer and the engine meet to make a group.
export { TcpStoreClient, type TcpStoreClientOptions } from './client.js';
export { TcpStoreServer, type TcpStoreServerOptions } from './server.js';
