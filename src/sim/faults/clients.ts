// The clients of a run: they turn drafts into requests with ids and seeds, send them, and hear of their ends.

import type { RequestObject } from '../../core/index.js';
import { ErrorCode } from '../../generated/index.js';
import { Account, type RequestDraft } from '../account.js';
import type { CheckedCore } from '../checked_core.js';
import { mix } from '../host/oracle.js';
import type { Random } from '../random.js';
import type { RunConfig } from '../run_config.js';

/** What makes a request impossible, malformed or a duplicate. */
export interface Spoilt {
  request: Partial<RequestObject>;
  fault: ErrorCode;
}

const MAX_STOPS = 3;

export class Clients {
  readonly #core: CheckedCore;
  readonly #config: RunConfig;
  readonly #random: Random;
  readonly #vanished = new Set<number>();
  #numRequests = 0;

  constructor(core: CheckedCore, config: RunConfig, random: Random) {
    this.#core = core;
    this.#config = config;
    this.#random = random;
  }

  /** Sends these drafts, in one command when a command may hold so many. Those of clients that have vanished are not sent. */
  send(drafts: readonly RequestDraft[]): Account[] {
    const present = drafts.filter(({ client }) => !this.#vanished.has(client));
    const accounts = present.map((draft) => this.#account(this.#dress(draft)));
    const most = this.#config.core.maxNumRequests;
    for (let first = 0; first < accounts.length; first += most) {
      const together = accounts.slice(first, first + most);
      this.#core.add(
        together.map((account) => ({ account, request: account.asRequest(), fault: ErrorCode.none })),
      );
    }
    return accounts;
  }

  sendSpoilt(draft: RequestDraft, { request, fault }: Spoilt): void {
    const account = this.#account(draft, request.id === undefined ? undefined : Number(request.id));
    this.#core.add([{ account, request: { ...account.asRequest(), ...request }, fault }]);
  }

  /** Sends nothing any more. Gives the ids of its live requests. */
  vanish(client: number): number[] {
    this.#vanished.add(client);
    return [...this.#core.ledger.live.values()]
      .filter(({ draft }) => draft.client === client)
      .map(({ id }) => id);
  }

  #account(draft: RequestDraft, id?: number): Account {
    const { core } = this.#config;
    this.#numRequests += 1;
    const longest = Math.min(core.maxModelLen, core.numBlocks * core.blockSize);
    // A bijection of 32 bits: seeds are distinct, and look like seeds.
    const seed = mix(0, this.#numRequests) >>> 0;
    const limits = { longest, eosTokenIds: [...core.eosTokenIds] };
    return new Account(id ?? this.#numRequests, seed, draft, limits);
  }

  /** What workloads leave open: priorities, adapters, salts, stops, and now and then the rarer options. */
  #dress(draft: RequestDraft): RequestDraft {
    const random = this.#random;
    const { prioritySpread, numAdapters, numSalts, core } = this.#config;
    const dressed: RequestDraft = {
      ...draft,
      priority: draft.priority ?? random.between(-prioritySpread, prioritySpread),
      adapter: random.perMille(300) ? random.between(0, numAdapters) : 0,
      cacheSalt: random.below(numSalts),
      ignoreEos: random.perMille(150),
    };
    if (random.perMille(150))
      dressed.stopTokenIds = Array.from({ length: random.between(1, MAX_STOPS) }, () =>
        random.below(core.vocabSize),
      );
    if (random.perMille(100)) dressed.minTokens = random.between(0, draft.maxTokens);
    if (random.perMille(60)) dressed.promptLogprobs = true;
    if (random.perMille(60)) dressed.repetitionPenalty = 1.25;
    if (random.perMille(60)) dressed.biasTokenId = random.below(core.vocabSize);
    if (draft.lengths.length === 1 && random.perMille(20)) {
      Object.assign(dressed, { promptLogprobs: true, maxTokens: 0, minTokens: 0 });
    }
    return dressed;
  }
}
