import { describe, expect, it } from 'vitest';
import { ChatTemplate } from '../../dist/tokenizer/chat_template.js';

const messages = [
  { role: 'system', content: 'be brief' },
  { role: 'user', content: 'hi' },
];

const render = (source: string, limits?: { steps: number; length: number }) =>
  new ChatTemplate(source, { bos_token: '<s>' }, limits).render(messages);

describe('a chat template', () => {
  it('sees messages, special tokens and that it is to generate', () => {
    const source =
      '{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content | trim }}\n{% endfor %}{% if add_generation_prompt %}>{% endif %}';
    expect(render(source)).toBe('<s>[system] be brief\n[user] hi\n>');
  });

  it('knows no date, so that templates fall back to their own', () => {
    expect(render("{% if strftime_now is defined %}{{ strftime_now('%Y') }}{% else %}fixed{% endif %}")).toBe(
      'fixed',
    );
  });

  it.each([
    ['a loop without end', '{% for i in range(3000) %}{% for j in range(3000) %}x{% endfor %}{% endfor %}'],
    ['a huge range', '{% for i in range(1000000000) %}x{% endfor %}'],
    ['a range of step 0', '{% for i in range(0, 5, 0) %}x{% endfor %}'],
    [
      'a text that doubles',
      `{% set ns = namespace(t='x') %}${'{% set ns.t = ns.t + ns.t %}'.repeat(20)}{{ ns.t }}`,
    ],
    [
      'a list that doubles',
      `{% set ns = namespace(t=[1]) %}${'{% set ns.t = ns.t + ns.t %}'.repeat(20)}{{ ns.t | length }}`,
    ],
    ['a macro that calls itself', '{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}'],
    ['a template that raises', "{{ raise_exception('roles must alternate') }}"],
    ['a syntax error', '{% for %}'],
    ['an unclosed tag', '{{ messages'],
    ['a template of two million characters', 'x'.repeat(2_000_000)],
  ])('is refused, not run on: %s', (_, source) => {
    expect(() => render(source, { steps: 100_000, length: 100_000 })).toThrowError(
      expect.objectContaining({ code: 'invalid_chat_template' }),
    );
  });

  it('tells what a template raised', () => {
    expect(() => render("{{ raise_exception('roles must alternate') }}")).toThrowError(
      /roles must alternate/,
    );
  });

  it('reaches nothing of the program around it', () => {
    for (const name of ['process', 'globalThis', 'require', 'constructor', '__proto__']) {
      expect(render(`{% if ${name} is defined %}there{% else %}none{% endif %}`), name).toBe('none');
    }
    expect(() => render("{{ messages.constructor.constructor('return process')() }}")).toThrow();
  });
});
