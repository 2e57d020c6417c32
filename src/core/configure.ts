// A Configure command off the wire, as the configuration that it was made of.

import { Command, CommandPayload, Configure } from '../generated/index.js';
import type { ResolvedCoreConfig } from './config.js';
import { messageBuffer } from './flat.js';

/** @param bytes a Command that was verified; null when it is none of type Configure */
export function decodeConfigure(bytes: Uint8Array): ResolvedCoreConfig | null {
  const command = Command.getRootAsCommand(messageBuffer(bytes));
  if (command.payloadType() !== CommandPayload.Configure) return null;
  const configure: Configure = command.payload(new Configure());
  return {
    maxModelLen: configure.maxModelLen(),
    numBlocks: configure.numBlocks(),
    vocabSize: configure.vocabSize(),
    blockSize: configure.blockSize(),
    maxNumSeqs: configure.maxNumSeqs(),
    maxNumBatchedTokens: configure.maxNumBatchedTokens(),
    maxNumRequests: configure.maxNumRequests(),
    longPrefillTokenThreshold: configure.longPrefillTokenThreshold(),
    enablePrefixCache: configure.enablePrefixCache(),
    maxStepsInFlight: configure.maxStepsInFlight(),
    maxN: configure.maxN(),
    maxLogprobs: configure.maxLogprobs(),
    tokenHeapBytes: Number(configure.tokenHeapBytes()),
    eosTokenIds: Array.from(configure.eosTokenIdsArray() ?? []),
  };
}
