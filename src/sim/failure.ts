// What a simulation throws when something does not hold: which checker saw it, and a sentence with the values.

/** The checkers by name; 'core' is the core itself, which stops on a broken invariant of its own. */
export type CheckerName =
  | 'core'
  | 'integrity'
  | 'host'
  | 'budget'
  | 'oracle'
  | 'delivery'
  | 'ends'
  | 'weights'
  | 'books'
  | 'fairness'
  | 'acknowledgements'
  | 'refused results'
  | 'snapshot'
  | 'trace'
  | 'liveness';

export class CheckFailed extends Error {
  override readonly name = 'CheckFailed';
  readonly checker: CheckerName;

  constructor(checker: CheckerName, sentence: string) {
    super(sentence);
    this.checker = checker;
  }
}

export function fail(checker: CheckerName, sentence: string): never {
  throw new CheckFailed(checker, sentence);
}
