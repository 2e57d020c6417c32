// Text in and out, for those who want it: the tokenizer of a model directory and its chat template.

// Text in and out of token ids, for those who want it: token ids in, token ids out never comes here.

export type { ChatMessage } from './chat_template.js';
export { Tokenizer } from './tokenizer.js';
