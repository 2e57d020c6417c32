// Payloads of frames other than steps: header, commands, the end.

import * as flatbuffers from 'flatbuffers';
import * as wire from '../generated/index.js';

/** What a trace says about its run. */
export interface TraceHeader {
  kadenzVersion: string;
  /** Of the core's WebAssembly, as hexadecimal digits. */
  coreSha256: string;
  /** The Command (Configure) that the core was created with. */
  configure: Uint8Array;
  /** The model's directory, for people. Empty: none. */
  model: string;
  modelFingerprint: string;
  /** Empty: no host, a simulation. */
  hostFingerprint: string;
  createdUnixMs: number;
  /** Whether steps carry their instructions' bytes. */
  hasPlans: boolean;
}

export function headerPayload(traceVersion: number, header: TraceHeader): Uint8Array {
  const builder = new flatbuffers.Builder(512);
  const { TraceHeader } = wire;
  const kadenzVersion = builder.createString(header.kadenzVersion);
  const coreSha256 = builder.createByteVector(Buffer.from(header.coreSha256, 'hex'));
  const configure = alignedBytes(builder, header.configure);
  const model = builder.createString(header.model);
  const modelFingerprint = builder.createString(header.modelFingerprint);
  const hostFingerprint = builder.createString(header.hostFingerprint);
  TraceHeader.startTraceHeader(builder);
  TraceHeader.addTraceVersion(builder, traceVersion);
  TraceHeader.addKadenzVersion(builder, kadenzVersion);
  TraceHeader.addCoreSha256(builder, coreSha256);
  TraceHeader.addConfigure(builder, configure);
  TraceHeader.addModel(builder, model);
  TraceHeader.addModelFingerprint(builder, modelFingerprint);
  TraceHeader.addHostFingerprint(builder, hostFingerprint);
  TraceHeader.addCreatedUnixMs(builder, BigInt(header.createdUnixMs));
  TraceHeader.addHasPlans(builder, header.hasPlans);
  return finishFrame(builder, wire.TraceBody.TraceHeader, TraceHeader.endTraceHeader(builder));
}

export function commandPayload(entry: {
  afterStep: bigint;
  timeUs: number;
  rounds: number;
  command: Uint8Array;
}): Uint8Array {
  const builder = new flatbuffers.Builder(entry.command.byteLength + 128);
  const { TraceCommand } = wire;
  const command = alignedBytes(builder, entry.command);
  TraceCommand.startTraceCommand(builder);
  TraceCommand.addAfterStep(builder, entry.afterStep);
  TraceCommand.addTimeUs(builder, BigInt(entry.timeUs));
  TraceCommand.addRounds(builder, entry.rounds);
  TraceCommand.addCommand(builder, command);
  return finishFrame(builder, wire.TraceBody.TraceCommand, TraceCommand.endTraceCommand(builder));
}

export function endPayload(entry: { timeUs: number; numSteps: bigint; digest: bigint }): Uint8Array {
  const builder = new flatbuffers.Builder(128);
  const { TraceEnd } = wire;
  TraceEnd.startTraceEnd(builder);
  TraceEnd.addTimeUs(builder, BigInt(entry.timeUs));
  TraceEnd.addNumSteps(builder, entry.numSteps);
  TraceEnd.addDigest(builder, entry.digest);
  return finishFrame(builder, wire.TraceBody.TraceEnd, TraceEnd.endTraceEnd(builder));
}

/** A message inside a message: its first byte at a multiple of 8, so that it can be read where it lies. */
export function alignedBytes(builder: flatbuffers.Builder, bytes: Uint8Array): flatbuffers.Offset {
  builder.startVector(1, bytes.byteLength, 8);
  const inner = builder as unknown as { space: number; bb: flatbuffers.ByteBuffer };
  inner.space -= bytes.byteLength;
  inner.bb.bytes().set(bytes, inner.space);
  return builder.endVector();
}

/** The finished TraceFrame, in a buffer of its own that can change hands. Its size is a multiple of 8. */
export function finishFrame(
  builder: flatbuffers.Builder,
  type: wire.TraceBody,
  body: flatbuffers.Offset,
): Uint8Array {
  wire.TraceFrame.startTraceFrame(builder);
  wire.TraceFrame.addBodyType(builder, type);
  wire.TraceFrame.addBody(builder, body);
  const root = wire.TraceFrame.endTraceFrame(builder);
  builder.finish(root);
  return builder.asUint8Array().slice();
}
