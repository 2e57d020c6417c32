export declare function nodeVersions(): { version: string; path: string }[];
