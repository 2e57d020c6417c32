// vLLM's StatelessProcessGroup, as far as a trainer's PyNccl needs it: one rank broadcasts the NCCL id, and ranks meet at barriers, all through
// a TCPStore. Peers pickle what they send. Nothing is unpickled here: the two messages that there are have known bytes, which are compared, and
// anything else is refused.

import { randomUUID } from 'node:crypto';
import { KadenzError } from '../errors.js';
import type { TcpStoreClient } from './client.js';
import { NCCL_ID_BYTES } from './nccl_id.js';

const text = (characters: string) => Buffer.from(characters, 'latin1');
const hex = (digits: string) => Buffer.from(digits.replaceAll(' ', ''), 'hex');

/** Of a pickled ctypes structure of the class below that holds 128 bytes, protocol 4, without its first two bytes, which name the protocol. */
const ID_HEAD = Buffer.concat([
  hex('95 ec00000000000000 8c 07'),
  text('_ctypes'),
  hex('94 8c 09'),
  text('_unpickle'),
  hex('94 93 94 8c 34'),
  text('vllm.distributed.device_communicators.pynccl_wrapper'),
  hex('94 8c 0c'),
  text('ncclUniqueId'),
  hex('94 93 94 7d 94 43 80'),
]);
const ID_TAIL = hex('94 86 94 86 94 52 94 2e');
/** Of a pickled string of 44 characters. */
const NAME_BYTES = 44;
const NAME_HEAD = hex('95 3000000000000000 8c 2c');
const NAME_TAIL = hex('94 2e');
/** Pickle's protocols 4 and 5 write both messages alike behind their first two bytes. */
const PROTOCOLS = [hex('80 04'), hex('80 05')];

const PRESENT = text('1');

export interface StatelessGroupOptions {
  rank: number;
  worldSize: number;
  timeoutMs: number;
}

export class StatelessGroup {
  readonly #client: TcpStoreClient;
  readonly #options: StatelessGroupOptions;
  /** Messages so far, by the rank that sent them. */
  readonly #sent = new Map<number, number>();

  /** `client` has no prefix. */
  constructor(client: TcpStoreClient, options: StatelessGroupOptions) {
    this.#client = client;
    this.#options = options;
  }

  /** The NCCL id that rank `source` broadcasts next. @throws KadenzError `store_timeout`, `store_protocol` */
  async receiveNcclId(source: number): Promise<Buffer> {
    return unwrapped(await this.#receive(source), ID_HEAD, NCCL_ID_BYTES, ID_TAIL, 'an NCCL id');
  }

  /** To all others. */
  async sendNcclId(id: Uint8Array): Promise<void> {
    if (id.length !== NCCL_ID_BYTES)
      throw new Error(`an NCCL id has ${NCCL_ID_BYTES} bytes, not ${id.length}`);
    await this.#send(Buffer.concat([PROTOCOLS[0]!, ID_HEAD, id, ID_TAIL]));
  }

  /** Until all ranks have come here. Rank 0 names the barrier, and takes its keys away when all have left. */
  async barrier(): Promise<void> {
    const { rank, worldSize, timeoutMs } = this.#options;
    const name = rank === 0 ? `barrier_${randomUUID()}` : await this.#receiveName();
    if (rank === 0) await this.#send(Buffer.concat([PROTOCOLS[0]!, NAME_HEAD, text(name), NAME_TAIL]));
    const ranks = Array.from({ length: worldSize }, (_, index) => index);
    const arrivals = ranks.map((index) => `arrival_${name}_${index}`);
    const departures = ranks.map((index) => `departure_${name}_${index}`);
    await this.#client.set(arrivals[rank]!, PRESENT);
    await this.#client.wait(arrivals, timeoutMs);
    await this.#client.set(departures[rank]!, PRESENT);
    if (rank !== 0) return;
    await this.#client.wait(departures, timeoutMs);
    for (const key of [...arrivals, ...departures]) await this.#client.deleteKey(key);
  }

  async #receiveName(): Promise<string> {
    const name = unwrapped(await this.#receive(0), NAME_HEAD, NAME_BYTES, NAME_TAIL, "a barrier's name");
    return name.toString('latin1');
  }

  #nextKey(source: number): string {
    const number = this.#sent.get(source) ?? 0;
    this.#sent.set(source, number + 1);
    return `broadcast_from/${source}/${number}`;
  }

  async #send(message: Buffer): Promise<void> {
    await this.#client.set(this.#nextKey(this.#options.rank), message);
  }

  #receive(source: number): Promise<Buffer> {
    return this.#client.get(this.#nextKey(source), this.#options.timeoutMs);
  }
}

/** What lies between the head and the tail. */
function unwrapped(message: Buffer, head: Buffer, length: number, tail: Buffer, what: string): Buffer {
  const begin = 2 + head.length;
  const isKnown =
    message.length === begin + length + tail.length &&
    PROTOCOLS.some((protocol) => message.subarray(0, 2).equals(protocol)) &&
    message.subarray(2, begin).equals(head) &&
    message.subarray(begin + length).equals(tail);
  if (isKnown) return message.subarray(begin, begin + length);
  throw new KadenzError(
    'store_protocol',
    `A rank of the group sent ${message.length} bytes that are not ${what} as vLLM writes it.`,
    { value: message.length },
  );
}
