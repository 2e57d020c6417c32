// What of the browser the report's script uses, in types: the script's two functions are given it.

export interface Chart {
  setOption(option: object, settings?: object): void;
  dispatchAction(action: object): void;
  /** What `getOption` would say of a zoom, without its copy of all data; the tests in a browser hold it. */
  getModel(): { getComponent(type: 'dataZoom', index: number): { getPercentRange(): [number, number] } };
  on(event: string, handler: (event: object) => void): void;
  resize(): void;
}

export interface Wheel {
  ctrlKey: boolean;
  shiftKey: boolean;
  stopPropagation(): void;
}

/** What of the browser is used. */
export interface Page {
  document: {
    getElementById(id: string): {
      style: { height: string };
      addEventListener(name: string, handler: (event: Wheel) => void, capture?: boolean): void;
    };
    documentElement: unknown;
  };
  getComputedStyle(element: unknown): { getPropertyValue(name: string): string };
  matchMedia(query: string): { addEventListener(name: string, handler: () => void): void };
  addEventListener(name: string, handler: () => void): void;
  requestAnimationFrame(handler: () => void): void;
  echarts: {
    init(element: unknown, theme: null, settings: object): Chart;
    graphic: { clipRectByRect(rect: object, clip: object): object | undefined };
  };
  kadenzCharts: Record<string, Chart>;
}
